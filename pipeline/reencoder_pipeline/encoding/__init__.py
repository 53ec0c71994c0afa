"""Encodes tracks into latent frames, block by block, in little memory."""
