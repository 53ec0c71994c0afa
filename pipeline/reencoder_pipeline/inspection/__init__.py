"""Looks into a finished cache: verify, values, seams, summary, pictures."""
