"""The training state of all trainings here: one file with a checksum, from which nothing but plain values is read.

It is what torch.save writes, a zip archive whose comment is the sha256 of the bytes before it. A state holds the
settings of its run: without them a run could go on with others, and its weights would claim what they are not.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reencoder_pipeline.durable import write_checkpoint
from reencoder_pipeline.errors import CheckpointError

STATE_FORMAT = 3  # 2 and earlier have no checksum of the file and no settings
COMMENT = b"reencoder-state sha256 "
DIGITS = 64
OPCODES_OF_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
IMPORTED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"} | {
    f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Byte", "Bool")
}
"""All that the states of our trainings import. torch.load allows more, of which some allocates what it is told to."""


def write_state(path: Path, values: Mapping[str, Any], *, kind: str, settings: Mapping[str, Any]) -> None:
    """Write tensors and plain values. `kind` says of which training; `settings` are those of the run."""
    buffer = io.BytesIO()
    torch.save({"reencoder_state": STATE_FORMAT, "kind": kind, "settings": dict(settings), **values}, buffer)
    content = buffer.getvalue()
    if content[-2:] != b"\0\0":
        raise AssertionError("an archive ends in the length of its comment, which torch.save leaves empty")
    size = (len(COMMENT) + DIGITS).to_bytes(2, "little")
    content = content[:-2] + size + COMMENT
    write_checkpoint(path, content + hashlib.sha256(content).hexdigest().encode())


def read_state(path: Path, *, kind: str) -> dict[str, Any]:
    """The values, on the CPU; with "settings" unless the state is of an earlier version, which had no such checksum.

    CheckpointError if the file is foreign, damaged, or the state of another kind of training. What is read takes no
    more memory than the file, and nothing in it is run.
    """
    damaged = CheckpointError(
        "the training state is damaged or not one of this program",
        where=path,
        remedy="restore it from a copy, or remove the run folder and start again",
    )
    try:
        content = path.read_bytes() if path.is_file() else b""
        values = _plain_values(content)
    except Exception:  # a damaged pickle can raise anything
        raise damaged from None
    version = values.get("reencoder_state")
    if _claims_checksum(content):
        if content[-DIGITS:] != hashlib.sha256(memoryview(content)[:-DIGITS]).hexdigest().encode():
            raise damaged
        if version != STATE_FORMAT:
            raise CheckpointError(
                "the training state is in a format of another version",
                where=path,
                value=f"format {version!r}"[:100] + f"; this program reads format {STATE_FORMAT} and earlier",
                remedy="use the version of this program that wrote it, or train again",
            )
        if not isinstance(values.get("settings"), dict):
            raise damaged
        if values.get("kind") != kind:
            raise CheckpointError(
                "the training state is of another kind of training",
                where=path,
                value=f"{values.get('kind')!r}, not {kind!r}"[:200],
                remedy="give another out",
            )
    elif version not in (None, 2):
        raise damaged
    return values


def is_state(path: Path) -> bool:
    """Whether a file looks like a state that `write_state` wrote, of whatever training; not whether it is sound."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(-len(COMMENT) - DIGITS, io.SEEK_END)
            return start == b"PK\3\4" and _claims_checksum(file.read())
    except OSError:
        return False


def _claims_checksum(content: bytes) -> bool:
    return content[-len(COMMENT) - DIGITS : -DIGITS] == COMMENT


def _plain_values(content: bytes) -> dict[str, Any]:
    """ValueError for what our trainings do not write; torch.load raises more."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED for each in members):
            raise ValueError("compressed")
        if sum(each.file_size for each in members) > len(content):
            raise ValueError("members that share bytes")
        for member in (each for each in members if each.filename.endswith(".pkl")):
            for opcode, argument, _ in pickletools.genops(archive.read(member)):
                if opcode.name in OPCODES_OF_IMPORTS and argument not in IMPORTED:
                    raise ValueError(f"imports {argument}")
    values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(values, dict):
        raise ValueError("not a state")
    for tensor in _tensors(values):
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("a tensor that says a value more than once")
    return values


def _tensors(value: Any) -> Iterator[Tensor]:
    waiting = [value]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, Mapping | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            waiting += each.values() if isinstance(each, Mapping) else each
