"""Loads the families of other projects' autoencoders: one file for each. A new one also takes a row in `FAMILIES` of
`autoencoder.py`, its licence in `known_files.py`, and a row in tests/contracts."""
