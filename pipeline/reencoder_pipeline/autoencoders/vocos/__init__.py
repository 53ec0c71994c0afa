"""Holds the house family, after Vocos (paper, section 3.1.1): STFT, ConvNeXt, 64 channels at 43 Hz, and back."""
