"""The networks: latent module, condition encoder, discriminator, normalisation."""
