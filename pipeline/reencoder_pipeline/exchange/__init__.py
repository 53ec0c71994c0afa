"""Latents in and out: convert, export, import."""
