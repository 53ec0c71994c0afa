"""Inspects a finished cache: summary, measurements and pictures; checks of its files, values and seams."""
