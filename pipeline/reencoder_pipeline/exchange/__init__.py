"""Converts caches between storage formats, and exports and imports latents as stable-audio-tools keeps them."""
