"""Trained modules on somebody's files: audio or latents in, audio or latents out."""
