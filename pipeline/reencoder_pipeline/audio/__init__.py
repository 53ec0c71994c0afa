"""Reads, resamples and measures recordings: float32 arrays of (channels, samples)."""
