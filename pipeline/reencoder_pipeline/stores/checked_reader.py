"""Reads objects of a cache from a folder or a URL, in pieces and with retries, and compares them with the index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.retry import persistent

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


PIECE_BYTES = 8 << 20  # of one request

Result = TypeVar("Result")


class DamagedContentError(Exception):
    """Raised by `take` of read_checked when the bytes make no sense; their digest says if they arrived as written."""


class ObjectReader:
    """Reads objects below a URL or a folder. Threads may share one."""

    def __init__(self, place: str) -> None:
        self._place = place

    @cached_property
    def _files(self) -> tuple[AbstractFileSystem, str]:
        import fsspec

        return fsspec.url_to_fs(self._place)

    def read_checked(self, name: str, *, size: int, sha256: str, take: Callable[[Iterator[bytes]], Result]) -> Result:
        """Returns what `take` makes of an object's pieces, after size and digest were found to be as promised.

        A transfer that fails goes on from the piece where it stopped (`retry.persistent`). Content with another digest
        is fetched once more, then refused with a CacheError. `take` may run twice; it need not read to the end. Memory:
        a piece, and what `take` keeps.
        """
        where = f"{self._place}/{name}"
        for _ in range(2):
            digest = hashlib.sha256()
            pieces, damage, result = self._digested(name, size, digest.update), None, None
            try:
                result = take(pieces)
            except DamagedContentError as error:
                damage = error
            for _ in pieces:  # the rest, for the digest
                pass
            if digest.hexdigest() == sha256:
                if damage is not None:
                    raise CacheError(
                        "a file of the cache is not in its format, though its digest is right", where=where,
                        value=damage, remedy="build the cache again: another program wrote this file",
                    )  # fmt: skip
                return result  # type: ignore[return-value], there is one when there is no damage
        raise CacheError(
            "a file of the cache is not what the index says; it was read twice",
            where=where,
            value=f"sha256 {digest.hexdigest()} instead of {sha256}",
            remedy="`reencoder-cache verify` on the original says which shards are damaged; build or copy it again",
        )

    def _digested(self, name: str, size: int, update: Callable[[bytes], None]) -> Iterator[bytes]:
        files, root = self._files
        for start in range(0, size, PIECE_BYTES):
            end = min(start + PIECE_BYTES, size)

            def read(start: int = start, end: int = end) -> bytes:
                piece = bytes(files.cat_file(f"{root}/{name}", start=start, end=end))  # type: ignore[arg-type]
                if len(piece) != end - start:
                    raise OSError(f"{len(piece)} bytes instead of {end - start} from byte {start}")
                return piece

            where = f"{self._place}/{name}"
            try:
                piece = persistent(read, where=where)
            except FileNotFoundError:
                raise CacheError(
                    "a file of the cache is missing", where=where, remedy="copy the whole cache again"
                ) from None
            update(piece)
            yield piece
