"""Reads the header of a `.npy` file: shape, order, type and where the values begin. Nothing in the file is run."""

from __future__ import annotations

import io
import threading
import tokenize
from dataclasses import dataclass
from typing import Any

import numpy as np

# By several threads at once, Python 3.11 can fail to parse: "AST constructor recursion depth mismatch".
_PARSING = threading.Lock()


@dataclass(frozen=True)
class NpyHeader:
    """`length` is in bytes; the values begin behind it."""

    version: tuple[int, int]
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int


def read_npy_header(content: bytes) -> NpyHeader:
    """The header at the beginning of the file's content. ValueError if it is damaged, or of a version after 2.0."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with _PARSING:
            shape, fortran, dtype = read(file)
    # numpy parses a header as Python text, with Python's own errors for a damaged one.
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(str(error.args[0])[:200] if error.args else repr(error)) from None
    return NpyHeader(version, shape, fortran, dtype, file.tell())
