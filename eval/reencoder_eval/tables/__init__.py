"""Turns rows of scores into tables with confidence intervals."""
