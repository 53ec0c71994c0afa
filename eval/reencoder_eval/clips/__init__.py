"""Chooses clips from a corpus and reads their audio."""
