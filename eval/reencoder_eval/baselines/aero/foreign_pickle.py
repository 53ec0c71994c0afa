"""Files of torch.save, read without running anything in them: tensors and plain containers come out, the rest is inert.

`torch.load(weights_only=True)` refuses files that name foreign classes at all, and those of training programs do.
"""

from __future__ import annotations

import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reencoder_pipeline.errors import CheckpointError

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}
# What training programs do name of the standard library. Whatever else of it a file names (os, eval, subprocess)
# belongs to an attack, which would be as inert as the rest, but is worth an error.
HARMLESS = {"collections", "typing", "pathlib", "enum", "copyreg", "datetime", "_codecs"}
HARMLESS_BUILTINS = {"object", "bool", "int", "float", "complex", "str", "bytes", "bytearray", "list", "tuple", "dict"}
HARMLESS_BUILTINS |= {"set", "frozenset", "slice", "range"}
REMEDY = "give a file that torch.save (1.6 or later) wrote"


class Inert:
    """Stands for every class and function that a file names: takes anything, does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file; `read_stored` reads it. The optimiser's are never read."""

    key: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_foreign(path: Path) -> Any:
    """What torch.save was given, with StoredTensor for tensors. CheckpointError when it is no such file, or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive)
            if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
                raise CheckpointError("was written on a big-endian machine", where=path, remedy="convert it there")
            with archive.open(f"{root}/data.pkl") as file:
                return _Reader(file, path).load()
    except FileNotFoundError:
        raise CheckpointError("no such checkpoint", where=path, remedy="correct the path") from None
    except _DAMAGE as error:
        raise _unreadable(path, error) from None


def read_stored(path: Path, tensors: dict[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors themselves, on the CPU."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive)
            return {name: _tensor(archive.read(f"{root}/data/{place.key}"), place) for name, place in tensors.items()}
    except _DAMAGE as error:
        raise _unreadable(path, error) from None


class _Reader(pickle.Unpickler):
    """Its find_class imports nothing, so no pickle can call anything but what is below."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = (module_name, global_name)
        if known == ("collections", "OrderedDict"):
            return OrderedDict
        if known == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if known == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module_name == "torch" and global_name in DTYPES:
            return DTYPES[global_name]
        root = module_name.partition(".")[0]
        if module_name in {"builtins", "__builtin__"}:
            harmless = global_name in HARMLESS_BUILTINS
        else:
            harmless = root in HARMLESS or root not in sys.stdlib_module_names
        if not harmless:
            raise CheckpointError(
                "names code that no checkpoint needs; nothing of it was run",
                where=self.path,
                value=f"{module_name}.{global_name}",
                remedy="do not use this file, and tell whoever gave it to you",
            )
        return Inert

    def persistent_load(self, pid: Any, /) -> tuple[str, torch.dtype]:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a storage of unknown type: {pid!r}")
        return str(key), dtype


def _rebuilt(storage: tuple[str, torch.dtype], offset: int, size: Any, stride: Any, *_: object) -> StoredTensor:
    key, dtype = storage
    return StoredTensor(key, dtype, offset, tuple(size), tuple(stride))


def _tensor(content: bytes, place: StoredTensor) -> Tensor:
    values = torch.frombuffer(bytearray(content), dtype=place.dtype)
    return values.as_strided(place.size, place.stride, place.offset).clone()  # RuntimeError where it reaches too far


def _root(archive: zipfile.ZipFile) -> str:
    name = next((name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if name is None:
        raise zipfile.BadZipFile("a zip file without data.pkl")
    return name.partition("/")[0]


# What a damaged zip file or pickle raises.
_DAMAGE = (
    *(zipfile.BadZipFile, pickle.UnpicklingError, struct.error, OSError, EOFError, RuntimeError, MemoryError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, OverflowError),
)


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    value = f"{type(error).__name__}: {str(error)[:300]}"
    return CheckpointError("cannot be read as a checkpoint", where=path, value=value, remedy=REMEDY)
