"""Shared by the trainings of all three floors: loop, run folder, metrics, states, ranks, excerpts of music."""
