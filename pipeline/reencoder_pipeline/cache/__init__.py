"""The latent cache: its format, its index, and reading frames by address."""

from reencoder_pipeline.cache.index import CachedTrack, Shard
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache

__all__ = ["CachedTrack", "LatentCache", "Shard", "open_cache"]
