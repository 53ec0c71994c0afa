"""Applies trained modules to files: audio or latents in, audio or latents out."""
