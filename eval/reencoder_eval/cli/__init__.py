"""The command lines reencoder-eval, reencoder-apply and reencoder-autoencoder."""
