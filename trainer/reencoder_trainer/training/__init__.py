"""The training of a latent module: learner, losses, run."""
