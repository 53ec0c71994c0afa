"""Inputs found, read and held; outputs planned and written."""
