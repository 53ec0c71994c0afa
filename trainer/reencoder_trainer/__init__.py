"""First floor: a latent cache becomes a trained module."""
