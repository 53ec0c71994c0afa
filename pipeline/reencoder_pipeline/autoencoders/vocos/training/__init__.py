"""Trains the house autoencoder."""
