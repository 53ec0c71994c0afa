"""Systems on raw audio to compare with; `baseline.py` describes how to add one."""
