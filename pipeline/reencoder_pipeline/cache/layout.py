"""Names of the files of a cache, and ShardFormat: which arrays a shard has and how its files keep them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reencoder_pipeline.cache.formats.compression import DEFAULT_LEVELS, Compression
from reencoder_pipeline.cache.formats.int8 import is_scale, stored_names
from reencoder_pipeline.cache.formats.zarr_shards import data_inside, file_sizes
from reencoder_pipeline.config import CacheConfig

SHARDS = "shards"


def record_name(key: str) -> str:
    return f"{SHARDS}/{key}.json"


def record_key(name: str) -> str | None:
    """The key of the shard whose commit record has this name; None for any other name."""
    key = name.removeprefix(f"{SHARDS}/").removesuffix(".json")
    return key if name == record_name(key) and "/" not in key else None


def group_name(key: str) -> str:
    """The folder of a shard in Zarr."""
    return f"{SHARDS}/{key}"


def tar_name(key: str) -> str:
    return f"{SHARDS}/{key}.tar"


def compression_of(config: CacheConfig) -> Compression | None:
    if config.compression == "none":
        return None
    return Compression(config.compression, config.compression_level or DEFAULT_LEVELS[config.compression])


def stored_as(config: CacheConfig) -> dict[str, Any]:
    """The entries of an index about compression and rounding; empty without them."""
    compression = compression_of(config)
    if compression is None:
        return {}
    return {"compression": asdict(compression), **config.model_dump(include={"keep_bits"}, exclude_none=True)}


def rounding_notes(config: CacheConfig) -> tuple[str, ...]:
    """For `notes` in the index: rounding changes latents."""
    if config.keep_bits is None:
        return ()
    return (f"latents are rounded to {config.keep_bits} bits of mantissa ({config.precision})",)


@dataclass(frozen=True)
class ShardFormat:
    """How a cache stores frames; the same for all of its shards. `compression` is for Zarr only.

    Example::

        ShardFormat("zarr", ("mono",), "float16", 64).data_name("shard0", "mono")  # shards/shard0/mono/c/0/0
    """

    storage: str
    streams: tuple[str, ...]
    precision: str
    channels: int
    compression: Compression | None = None

    @classmethod
    def of(cls, config: CacheConfig, *, channels: int) -> ShardFormat:
        return cls(config.format, tuple(config.streams), config.precision, channels, compression_of(config))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stream's stored values."""
        return np.dtype(self.precision)

    @property
    def names(self) -> list[str]:
        """The arrays of a shard: its streams and, for int8, their scales."""
        return stored_names(self.streams, self.precision)

    def dtype_of(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32) if is_scale(name) else self.dtype

    def place(self, key: str) -> str:
        """The folder or tar, below the cache, that is a shard."""
        return tar_name(key) if self.storage == "webdataset" else group_name(key)

    def data_name(self, key: str, name: str) -> str:
        """The file, below the cache, that holds an array of a shard; a tar holds all of them."""
        return tar_name(key) if self.storage == "webdataset" else f"{group_name(key)}/{data_inside(name)}"

    def sizes(self, name: str, *, rows: int) -> tuple[int, int]:
        """Smallest and largest size of the Zarr file with so many rows of an array."""
        return file_sizes(
            name, rows=rows, channels=self.channels, dtype=self.dtype_of(name), compression=self.compression
        )
