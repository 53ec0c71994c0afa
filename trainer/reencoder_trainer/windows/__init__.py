"""Windows of latents from a cache, as batches."""
