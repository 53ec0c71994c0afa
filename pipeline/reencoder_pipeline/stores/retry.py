"""Repeats a request that failed for a reason that may pass, with growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from reencoder_pipeline.errors import CacheError, ReencoderError
from reencoder_pipeline.stores.atomic import FULL_DISK

ATTEMPTS = 5  # each with the retries of the fsspec file system within it (s3fs: 10 to 50 seconds)
FIRST_PAUSE = 0.5  # seconds; doubled after each attempt

Result = TypeVar("Result")


def persistent(request: Callable[[], Result], *, where: str) -> Result:
    """The result of `request`, tried ATTEMPTS times; then a CacheError.

    Errors about the request itself are raised at once: no such object, no room on this disk, a wrong argument; refused
    access as a CacheError. Libraries behind fsspec raise errors of their own kinds, with no class in common, so all
    others are tried again.

    Example::

        persistent(lambda: files.cat_file(path), where=path)
    """
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        try:
            return request()
        except PermissionError as error:
            remedy = "check the credentials in the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...) and their rights"
            raise CacheError("access is refused", where=where, value=error, remedy=remedy) from None
        except (
            ReencoderError, FileNotFoundError, FileExistsError, TypeError, AttributeError, LookupError, MemoryError
        ):  # fmt: skip
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL_DISK:  # of this machine, while downloading
                raise
            problem = f"{type(error).__name__}: {str(error) or repr(error)}"
    raise CacheError(
        "the request failed again and again", where=where, value=f"{problem} ({ATTEMPTS} attempts)",
        remedy="check the network and the address, then run the same command again: it goes on where it was",
    )  # fmt: skip
