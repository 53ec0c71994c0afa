"""Distances between estimate and reference: spectral, stereo, latent, of hearing; FLOPs."""
