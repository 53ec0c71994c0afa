"""Writes the listening page, figures and model cards of a run."""
