"""A module that cannot be imported, for tests of named functions."""

raise ZeroDivisionError("while it is imported")
