"""Families of autoencoders, one file or folder each; `reencoder_pipeline.autoencoder` is the door to them."""
