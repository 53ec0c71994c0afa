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
from reencoder_pipeline.autoencoders.known_files import CONFIG, read_json
from reencoder_pipeline.errors import AutoencoderError
from reencoder_pipeline.stores.digests import file_digest


def weights_digest(folder: Path, stem: str, *, config: str = CONFIG) -> str:
    """sha256 over the config and the weights that belong to it (`stem`.safetensors, or the pieces its index names):
    names sorted, contents by their sha256. The config counts, for it can hold statistics that latents are scaled by."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        names = {whole.name}
    elif index.is_file():
        names = weight_pieces(index)
    else:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        remedy = f"bring {whole.name} here; only safetensors are read, convert other formats with the library's tools"
        raise AutoencoderError(f"no weights named {whole.name}", where=folder, value=found, remedy=remedy)
    return digest_of([folder / name for name in (*names, config)])


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over names (sorted) and contents. AutoencoderError when one is missing."""
    if missing := [path for path in files if not path.is_file()]:
        raise AutoencoderError("a file of the weights is missing", where=missing[0], remedy="fetch the weights again")
    lines = sorted(f"{path.name} {file_digest(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def library_class(library: str, name: str, *, since: str) -> Any:
    """A class of an optional library. AutoencoderError: not installed, or older than `since`."""
    try:
        module = importlib.import_module(library)
        found = getattr(module, name, None)
    except (ImportError, RuntimeError) as error:  # diffusers turns an import that fails inside it into RuntimeError
        package = library.partition(".")[0]
        remedy = f"pip install 'reencoder[{package}]', or pip install {package}"
        raise AutoencoderError(f"{name} needs {library}", value=str(error)[:300], remedy=remedy) from None
    if found is None:
        version = getattr(module, "__version__", "unknown")
        remedy = f"pip install --upgrade '{library}>={since}'"
        raise AutoencoderError(f"this {library} is too old for {name}", value=f"version {version}", remedy=remedy)
    return found


def from_pretrained(kind: Any, folder: Path, *, device: str) -> Any:
    """A library's model in float32, evaluation mode, frozen. A weight that the files lack is an error here: the
    libraries would leave it random and only warn."""
    refuse_what_brings_code(folder)
    if files := sorted(folder.glob("*.safetensors")):
        require_sizes_of_files(kind, read_json(folder / CONFIG), files, where=folder)
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # a damaged file or a config of another version raises whatever it happens to hit
        remedy = "fetch the weights again, and upgrade the library if the model is newer than it"
        value = f"{type(error).__name__}: {str(error)[:300]}"
        raise AutoencoderError("the weights cannot be loaded", where=folder, value=value, remedy=remedy) from error
    if missing := sorted(info["missing_keys"]):
        value = f"{len(missing)} tensors, the first: {missing[0]}"
        raise AutoencoderError("weights are missing", where=folder, value=value, remedy="fetch the weights again")
    return model.float().eval().requires_grad_(False).to(device)


def choose_form(form: str | None, offered: Sequence[str], *, where: object) -> str | None:
    """The form asked for, or the first one offered; None where there is only one. AutoencoderError if not offered."""
    if form is None:
        return offered[0] if offered else None
    if form not in offered:
        near = difflib.get_close_matches(form, offered, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        remedy = f"{hint}Offered: {', '.join(offered)}" if offered else "leave out `form`: there is only one"
        raise AutoencoderError("this autoencoder has no such form", where=where, value=form, remedy=remedy)
    return form
