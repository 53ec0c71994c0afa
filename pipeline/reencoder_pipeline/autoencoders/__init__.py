"""Finds and loads the weights of autoencoders; `reencoder_pipeline.autoencoder.load_autoencoder` is the way in."""
