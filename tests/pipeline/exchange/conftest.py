"""A cache to export."""

from __future__ import annotations

import pytest

from exchanged import silent
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.exchange.convert import convert_cache
from tiny_cache import write_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    """A small cache with checksums, two shards, all four streams. Not to be changed."""
    folder = tmp_path_factory.mktemp("cache")
    convert_cache(write_cache(folder / "first"), folder / "zarr", storage="zarr", progress=silent)
    return open_cache(folder / "zarr")
