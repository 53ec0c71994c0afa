"""Checksums of stored frames: crc32c of every 1,024 frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.zarr_shards import CHUNK_FRAMES


def block_checksums(frames: NDArray[Any]) -> tuple[int, ...]:
    """crc32c of every 1,024 frames: an uncompressed Zarr shard notices no flipped bit by itself."""
    import google_crc32c

    return tuple(
        google_crc32c.value(np.ascontiguousarray(frames[start : start + CHUNK_FRAMES]).tobytes())
        for start in range(0, len(frames), CHUNK_FRAMES)
    )
