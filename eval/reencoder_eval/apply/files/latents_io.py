"""Files of latents: (C, T) in .npy with a .json beside it, or .safetensors that names its autoencoder itself."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from reencoder_eval.apply.files.scratch import Scratch
from reencoder_pipeline.cache.formats.npy import read_npy_header
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.safe_text import parse_json, read_json
from reencoder_pipeline.stores.atomic import replacing, write_whole

NPY, SAFETENSORS = ".npy", ".safetensors"
HEADER_BYTES = 65_536  # more than numpy accepts as the header of an .npy
TENSOR, HEADER = "latents", "reencoder_latents"  # the names inside a .safetensors file


@dataclass(frozen=True)
class Latents:
    """`values` (k * C, T) of k streams, stacked along channels. Files of other programs have no `spec` and no
    `streams`; `others` is what else their .json says (stable-audio-tools: padding_mask), which is passed on."""

    values: NDArray[Any]
    spec: LatentSpec | None
    streams: tuple[str, ...] | None
    others: dict[str, Any]

    def in_scratch(self, folder: Path) -> Scratch:
        scratch = Scratch(len(self.values), folder=folder)
        for start in range(0, self.values.shape[1], 4096):
            scratch.append(self.values[:, start : start + 4096].astype(np.float32))
        return scratch


def is_latents(path: Path, *, listed: bool = False) -> bool:
    """Whether the suffix is one of latents. `listed` (found in a folder, which may hold other files): an .npy counts
    only with its .json, and a .safetensors only with our header."""
    suffix = path.suffix.lower()
    if not listed or suffix not in (NPY, SAFETENSORS):
        return suffix in (NPY, SAFETENSORS)
    if suffix == NPY:
        return path.with_suffix(".json").is_file()
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return HEADER in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def read_latents(path: Path) -> Latents:
    """CacheError when it is missing, damaged, pickled, not (C, T), or holds values that are not numbers."""
    if not path.is_file():
        raise CacheError("no such file of latents", where=path, remedy="correct the path")
    try:
        values, header = _npy(path) if path.suffix.lower() == NPY else _safetensors(path)
    except (ValueError, EOFError, KeyError, TypeError, safetensors.SafetensorError) as error:
        remedy = f"give an .npy array (C, T), or a .safetensors with a tensor {TENSOR!r} and the header {HEADER!r}"
        raise CacheError("cannot be read as latents", where=path, value=str(error)[:300], remedy=remedy) from None
    if values.ndim != 2 or values.dtype.kind != "f" or 0 in values.shape:
        value = f"{values.dtype} {values.shape}"
        what, remedy = "the latents are not floats of shape (channels, frames)", "save them as float16 or float32"
        raise CacheError(what, where=path, value=value, remedy=remedy)
    if not np.isfinite(values).all():
        raise CacheError("the file holds values that are not numbers", where=path, remedy="encode it again")
    spec, streams = header.pop("spec", None), header.pop("streams", None)
    return Latents(
        values,
        LatentSpec.from_dict(spec, where=path) if isinstance(spec, dict) else None,
        tuple(map(str, streams)) if isinstance(streams, list) else None,
        header,
    )


def write_latents(latents: Latents, path: Path) -> None:
    """Write them in the format of the suffix, float16 as float16 and all else as float32; the .npy comes last.
    CacheError where a value is not a finite number."""
    assert latents.spec is not None, "ours say whose they are"
    assert latents.streams is not None, "and what"
    if not np.isfinite(latents.values).all():
        raise CacheError(
            "the output would hold values that are not finite numbers", where=path, value=str(latents.values.dtype),
            remedy="the module or the autoencoder overflows on this input: turn it down, or use another module",
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {**latents.others, "spec": latents.spec.to_dict(), "streams": list(latents.streams)}
    values = np.ascontiguousarray(latents.values)
    if path.suffix == NPY:
        content = io.BytesIO()
        np.save(content, values)
        # The inner one is renamed first; where either cannot be written, neither is.
        with replacing(path) as beside, replacing(path.with_suffix(".json")) as header_beside:
            header_beside.write_text(json.dumps(header), encoding="utf-8")
            beside.write_bytes(content.getbuffer())
    else:
        from safetensors.numpy import save

        write_whole(path, save({TENSOR: values}, metadata={HEADER: json.dumps(header, sort_keys=True)}))


def _npy(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    beside = path.with_suffix(".json")
    header = read_json(beside, kind=CacheError) if beside.is_file() else {}
    with path.open("rb") as file:
        read_npy_header(file.read(HEADER_BYTES))  # ValueError for a damaged one, where numpy raises errors of a parser
    return np.load(path, mmap_mode="r", allow_pickle=False), dict(header)


def _safetensors(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    with safetensors.safe_open(path, framework="np") as file:
        header = (file.metadata() or {}).get(HEADER)
        if header is None:
            raise KeyError(f"no header {HEADER!r}: is this a module?")
        return file.get_tensor(TENSOR), dict(parse_json(header, kind=CacheError, where=path, what="header"))
