"""Measures an autoencoder by itself and writes its card."""
