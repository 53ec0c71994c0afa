"""Objects of a cache, read from wherever it lies: in pieces, with patience, and only as the index describes them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from reencoder_pipeline.errors import CacheError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


PIECE_BYTES = 8 << 20  # of one request
ATTEMPTS = 5
FIRST_PAUSE = 0.5  # after the first attempt; doubled after each

Result = TypeVar("Result")


class DamagedContentError(Exception):
    """What `take` of read_checked raises when the bytes make no sense; the digest says whose fault it is."""


class ObjectReader:
    """Reads objects below a URL or a folder. Threads may share one."""

    def __init__(self, place: str) -> None:
        self._place = place

    @cached_property
    def _files(self) -> tuple[AbstractFileSystem, str]:
        import fsspec

        return fsspec.url_to_fs(self._place)

    def read_checked(self, name: str, *, size: int, sha256: str, take: Callable[[Iterator[bytes]], Result]) -> Result:
        """What `take` makes of an object's pieces, once size and digest are known to be those promised.

        A transfer that is refused, stalls or is cut goes on from the piece where it stopped, after a pause, at most
        ATTEMPTS times a piece. Content with another digest is fetched once more. After that, one CacheError. `take` may
        run twice; it need not read to the end. Memory: a piece, and what `take` keeps.
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
                    raise CacheError("cannot be read, though it is as it was written", where=where, value=damage)
                return result  # type: ignore[return-value], there is one when there is no damage
        raise CacheError(
            "is not what the index says, fetched twice",
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

            piece = persistent(read, where=f"{self._place}/{name}")
            update(piece)
            yield piece


def persistent(read: Callable[[], Result], *, where: str) -> Result:
    """The result of `read`, tried ATTEMPTS times with growing pauses; then CacheError, at once if trying is in vain."""
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except CacheError:
            raise
        except FileNotFoundError:
            raise CacheError("is missing", where=where, remedy="copy the cache again, whole") from None
        except PermissionError as error:
            remedy = "check the credentials in the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...)"
            raise CacheError("may not be read", where=where, value=error, remedy=remedy) from None
        # Every protocol has its own errors for what a network does; none of them is worth another treatment.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if attempt < ATTEMPTS - 1:
            time.sleep(FIRST_PAUSE * 2**attempt)
    raise CacheError(
        f"cannot be read, tried {ATTEMPTS} times",
        where=where,
        value=problem,
        remedy="check the network and the address, then run the same command again: what arrived is kept",
    )
