"""Where music comes from: folders, manifests, splits, and free music."""
