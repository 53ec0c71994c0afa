"""Chooses clips of a corpus and reads them."""
