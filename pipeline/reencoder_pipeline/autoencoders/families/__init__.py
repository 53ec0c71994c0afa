"""Loads the families of other projects' autoencoders: one file for each."""
