"""Ground floor: audio becomes a latent cache."""
