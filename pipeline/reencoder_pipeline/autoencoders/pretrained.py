"""Loads a library's pretrained model frozen, digests its weights, and refuses a config that claims larger ones."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reencoder_pipeline.autoencoders.find_weights import refuse_what_brings_code, weight_pieces
from reencoder_pipeline.autoencoders.known_files import (
    CONFIG,
    DIFFUSERS_WEIGHTS,
    TRANSFORMERS_WEIGHTS,
    items_within,
    read_json,
)
from reencoder_pipeline.errors import AutoencoderError, in_one_line
from reencoder_pipeline.stores.digests import file_digest

COUNTS = re.compile(r"(layers|blocks|depths?|n_codebooks|num_quantizers|repeats?)$")  # keys that count repeated parts
SLACK = 2**20  # numbers that a model may hold beside its weights, such as windows


def weights_digest(folder: Path, stem: str) -> str:
    """`digest_of` the weights in a folder (`stem`.safetensors, or the files its index names) and their config.

    The config counts, because it can hold statistics by which latents are scaled."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        names = {whole.name}
    elif index.is_file():
        names = weight_pieces(index)
    else:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        remedy = f"put {whole.name} there; convert other formats to safetensors with the library's tools"
        raise AutoencoderError(f"the folder holds no {whole.name}", where=folder, value=found, remedy=remedy)
    return digest_of([folder / name for name in (*names, CONFIG)])


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over the sorted names and the contents of files. AutoencoderError if one is missing."""
    if missing := [path for path in files if not path.is_file()]:
        raise AutoencoderError("a file of the weights is missing", where=missing[0], remedy="fetch the weights again")
    lines = sorted(f"{path.name} {file_digest(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def library_class(library: str, name: str, *, since: str) -> Any:
    """Import a class of an optional library. AutoencoderError if it is not installed, or older than `since`."""
    try:
        module = importlib.import_module(library)
        found = getattr(module, name, None)
    except (ImportError, RuntimeError) as error:  # diffusers raises RuntimeError if an import inside it fails
        package = library.partition(".")[0]
        what, remedy = f"{name} needs {library}, which cannot be imported", f"pip install 'reencoder[{package}]'"
        raise AutoencoderError(what, value=str(error)[:300], remedy=f"{remedy}, or pip install {package}") from None
    if found is None:
        version = getattr(module, "__version__", "unknown")
        remedy = f"pip install --upgrade '{library}>={since}'"
        raise AutoencoderError(f"this {library} is too old for {name}", value=f"version {version}", remedy=remedy)
    return found


def from_pretrained(library: str, name: str, folder: Path, *, since: str, device: str) -> tuple[Any, str]:
    """Load a model of a library's class `name` in float32, evaluation mode, frozen; and the digest of its weights.

    AutoencoderError if a weight is missing: the libraries would leave it random and only warn."""
    kind = library_class(library, name, since=since)
    refuse_what_brings_code(folder)
    if files := sorted(folder.glob("*.safetensors")):
        require_sizes_of_files(kind, read_json(folder / CONFIG), files, where=folder)
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # a damaged file or a config of another version can raise anything
        remedy = "fetch the weights again, and upgrade the library if the model is newer"
        value = f"{type(error).__name__}: {str(error)[:300]}"
        raise AutoencoderError("the weights cannot be loaded", where=folder, value=value, remedy=remedy) from error
    if missing := sorted(info["missing_keys"]):
        value = f"{len(missing)} tensors, the first: {missing[0]}"
        what = "some of the model's weights are missing"
        raise AutoencoderError(what, where=folder, value=value, remedy="fetch the weights again")
    stem = TRANSFORMERS_WEIGHTS if library == "transformers" else DIFFUSERS_WEIGHTS
    return model.float().eval().requires_grad_(False).to(device), weights_digest(folder, stem)


def require_sizes_of_files(kind: Any, config: Mapping[str, Any], files: Sequence[Path], *, where: Path) -> None:
    """Raise an AutoencoderError unless a model of class `kind` with this `config` is about as large as the files.

    The model is built on the meta device, without memory. A config with more parts than tensors is refused before that.
    """
    import torch

    shapes = [shape for file in files for shape in _shapes(file)]
    too_large = "the configuration asks for more than the files hold"
    remedy = "fetch the weights and their configuration again"
    counts = [item for item in items_within(config) if COUNTS.search(item[0]) and isinstance(item[1], int | float)]
    if many := {key: count for key, count in counts if count > max(len(shapes), 64)}:
        value = f"{in_one_line(many)}, {len(shapes)} tensors"
        raise AutoencoderError(too_large, where=where, value=value, remedy=remedy)
    try:
        with torch.device("meta"):
            settings = getattr(kind, "config_class", None)
            model = kind.from_config(dict(config)) if settings is None else kind(settings.from_dict(dict(config)))
    except Exception as error:  # a config of another version, or nonsense, can raise anything
        value = f"{type(error).__name__}: {in_one_line(error)}"
        what = "no model can be built from the configuration"
        raise AutoencoderError(what, where=where, value=value, remedy=remedy) from error
    claimed = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if claimed > 2 * sum(map(math.prod, shapes)) + SLACK:
        value = f"{claimed:,} numbers, and {sum(map(math.prod, shapes)):,} in the files"
        raise AutoencoderError(too_large, where=where, value=value, remedy=remedy)


def _shapes(file: Path) -> list[tuple[int, ...]]:
    """The shapes of a safetensors file's tensors; none of a damaged file, for which the library raises later."""
    import safetensors

    try:
        with safetensors.safe_open(file, "np") as opened:
            return [tuple(opened.get_slice(name).get_shape()) for name in opened.keys()]  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError):
        return []


def choose_form(form: str | None, offered: Sequence[str], *, where: object) -> str | None:
    """The requested form, or the first one offered; None if none are offered. AutoencoderError for an unknown form."""
    if form is None:
        return offered[0] if offered else None
    if form not in offered:
        near = difflib.get_close_matches(form, offered, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        remedy = f"{hint}choose one of: {', '.join(offered)}" if offered else "leave out `form`: there is only one"
        raise AutoencoderError("this autoencoder has no such form", where=where, value=form, remedy=remedy)
    return form
