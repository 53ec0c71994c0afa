"""Compression of Zarr shards by zstd or blosc, rounding of mantissas before it, and decoding within known sizes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Codec = Literal["zstd", "blosc"]
DEFAULT_LEVELS: Mapping[str, int] = {"zstd": 3, "blosc": 5}

_ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
_BLOSC_HEADER = struct.Struct("<BBBBIII")  # two versions, flags, typesize, then bytes decoded, of a block, encoded
_BLOSC_ZSTD = 4  # in the three upper bits of the flags


@dataclass(frozen=True)
class Compression:
    """How the chunks of a Zarr shard are compressed; `level` is 1 to `config.MOST_LEVEL` of the codec.

    Example::

        write_zarr_shard(folder, {"mono": frames}, compression=Compression("blosc", 5))
    """

    codec: Codec
    level: int

    def described(self, itemsize: int) -> dict[str, Any]:
        """The codec in a Zarr v3 description. Both are in Zarr's own specification, so any Zarr reader knows them."""
        if self.codec == "zstd":
            return {"name": "zstd", "configuration": {"level": self.level, "checksum": False}}
        blosc = {
            "typesize": itemsize, "cname": "zstd", "clevel": self.level, "shuffle": "bitshuffle", "blocksize": 0,
        }  # fmt: skip
        return {"name": "blosc", "configuration": blosc}

    def decode_into(self, chunk: bytes, out: NDArray[np.uint8]) -> None:
        """Decode one compressed chunk into `out`. ValueError unless it decodes to exactly as many bytes as `out` has.

        The size that the chunk claims is read first, so nothing larger is ever decoded.
        """
        from numcodecs import Blosc, Zstd

        claimed = _zstd_size(chunk) if self.codec == "zstd" else _blosc_size(chunk)
        if claimed != out.nbytes:
            raise ValueError(f"a chunk claims {claimed} bytes, and its frames have {out.nbytes}")
        codec = Zstd() if self.codec == "zstd" else Blosc()
        try:
            codec.decode(chunk, out)
        except RuntimeError as error:  # what numcodecs raises for a damaged chunk
            raise ValueError(f"a chunk cannot be decoded: {error}") from None


def _zstd_size(chunk: bytes) -> int | None:
    """The bytes that a zstd frame says it decodes to (RFC 8878, 3.1.1.1); None where it does not say."""
    if len(chunk) < 6 or chunk[:4] != _ZSTD_FRAME:
        return None
    flags = chunk[4]
    single_segment, size_flag = bool(flags & 0x20), flags >> 6
    first = 5 + (not single_segment) + (0, 1, 2, 4)[flags & 3]
    width = (int(single_segment), 2, 4, 8)[size_flag]
    if not width or len(chunk) < first + width:
        return None
    return int.from_bytes(chunk[first : first + width], "little") + (256 if width == 2 else 0)


def _blosc_size(chunk: bytes) -> int | None:
    """The bytes that a blosc buffer says it decodes to; None unless it is one that zstd made, of this length."""
    if len(chunk) < _BLOSC_HEADER.size:
        return None
    _, _, flags, _, decoded, _, encoded = _BLOSC_HEADER.unpack_from(chunk)
    return decoded if encoded == len(chunk) and flags >> 5 == _BLOSC_ZSTD else None


def rounded(frames: NDArray[Any], keep_bits: int) -> NDArray[Any]:
    """Frames with so many bits of mantissa, to the nearest, halves to even: the others are zero and compress well.

    A number that would round to infinity stays as it is. Rounding again changes nothing.
    """
    from numcodecs.bitround import BitRound

    new = np.asarray(BitRound(keepbits=keep_bits).encode(frames.copy(order="C"))).view(frames.dtype)
    return np.where(np.isfinite(new), new, frames)
