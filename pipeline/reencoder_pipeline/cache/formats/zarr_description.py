"""Compares a shard's `zarr.json` files with those that our own writer makes: no other codecs, sizes or types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reencoder_pipeline.cache.formats.compression import Compression
from reencoder_pipeline.cache.formats.zarr_shards import DESCRIPTION, chunk_rows
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import read_json

OLDER = (".zarray", ".zgroup", ".zattrs", ".zmetadata")  # of Zarr's second format, which a reader may prefer
_LARGEST_DESCRIPTION = 2**16


def require_own_format(
    folder: Path,
    stream: str,
    *,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    compression: Compression | None = None,
) -> None:
    """CacheError unless the shard and this stream of it are described as `write_zarr_shard` does. No frame is read."""
    group = {"zarr_format": 3, "node_type": "group"}
    for inside, expected in (("", group), (stream, _array(stream, shape, dtype, compression))):
        place = folder / inside
        older = [name for name in OLDER if (place / name).exists()]
        found = read_json(
            place / DESCRIPTION, kind=CacheError, what="description of a shard", limit=_LARGEST_DESCRIPTION
        )
        wrong = older or _differing(found, expected)
        if wrong:
            raise CacheError(
                "this is not a shard of this format", where=place / DESCRIPTION, value=", ".join(wrong[:3])[:200],
                remedy="build the cache again; shards that another program wrote are not read",
            )  # fmt: skip


def _differing(found: Any, expected: Mapping[str, Any]) -> list[str]:
    """The keys in which a description differs from the expected one. Keys that mean nothing when empty may lack."""
    if not isinstance(found, dict):
        return ["no JSON object"]
    empty = {"attributes": {}, "storage_transformers": [], "dimension_names": None, "consolidated_metadata": None}
    mine, theirs = {**empty, **expected}, {**empty, **found}
    # As text, true is not 1.
    said = [{key: json.dumps(value, sort_keys=True) for key, value in one.items()} for one in (mine, theirs)]
    return sorted(key for key in mine.keys() | theirs.keys() if said[0].get(key) != said[1].get(key))


def _array(
    stream: str, shape: tuple[int, int], dtype: np.dtype[Any], compression: Compression | None
) -> dict[str, Any]:
    """The description of an array that `write_zarr_shard` makes Zarr write."""
    rows, channels = shape
    chunk = chunk_rows(stream, rows)
    plain = {"name": "bytes", **({"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {})}
    sharding = {
        "chunk_shape": [chunk, channels],
        "codecs": [plain] if compression is None else [plain, compression.described(dtype.itemsize)],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, channels],
        "data_type": str(dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [-(-rows // chunk) * chunk, channels]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if dtype == np.int8 else "NaN",
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
