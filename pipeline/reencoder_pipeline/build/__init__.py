"""Builds a latent cache from a corpus: plan, workers, index."""
