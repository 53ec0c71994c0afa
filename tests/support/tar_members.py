"""Where the arrays of a tar shard lie, by tarfile and numpy alone, without an index."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

from reencoder_pipeline.cache.formats.tar_shards import Member


def members_in(path: Path) -> dict[str, Member]:
    with tarfile.open(path) as tar:
        return {entry.name: _member(path, entry) for entry in tar}


def _member(path: Path, entry: tarfile.TarInfo) -> Member:
    content = path.read_bytes()[entry.offset_data :][: entry.size]
    array, header = np.load(io.BytesIO(content)), io.BytesIO(content)
    np.lib.format.read_magic(header)
    np.lib.format.read_array_header_1_0(header)
    return Member(entry.offset_data + header.tell(), array.shape, array.dtype)
