"""How frames lie in files: Zarr shards, tar shards, int8, checksums."""
