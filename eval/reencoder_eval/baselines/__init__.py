"""Systems on raw audio to compare with: the second plugin door; `baseline.py` has the protocol."""
