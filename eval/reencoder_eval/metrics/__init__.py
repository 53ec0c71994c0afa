"""Measures of an estimate against its reference (spectra, stereo, latents, models of hearing), and FLOP counts."""
