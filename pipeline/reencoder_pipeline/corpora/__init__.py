"""Finds tracks in folders and manifests, assigns their splits, and fetches free music."""
