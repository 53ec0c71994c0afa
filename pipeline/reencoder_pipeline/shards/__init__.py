"""Makes, writes and commits single shards; reuses and sweeps them."""
