"""Reads, resamples and measures recordings."""
