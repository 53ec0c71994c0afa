"""Encodes tracks into frames, block by block."""
