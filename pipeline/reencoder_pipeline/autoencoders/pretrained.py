"""Loads a library's pretrained model frozen, and digests its weights."""

from __future__ import annotations

import difflib
import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reencoder_pipeline.autoencoders.claimed_sizes import require_sizes_of_files
from reencoder_pipeline.autoencoders.find_weights import refuse_what_brings_code, weight_pieces
from reencoder_pipeline.autoencoders.known_files import CONFIG, DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS, read_json
from reencoder_pipeline.errors import AutoencoderError
from reencoder_pipeline.stores.digests import file_digest


def weights_digest(folder: Path, stem: str, *, config: str = CONFIG) -> str:
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
    return digest_of([folder / name for name in (*names, config)])


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
