"""Finds an autoencoder's weights: turns a folder, file or hub id into a path on disk, its family and its config."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reencoder_pipeline.autoencoders.hub import Options, download_from_hub
from reencoder_pipeline.autoencoders.known_files import (
    CONFIG,
    DIFFUSERS_WEIGHTS,
    NAMED_FILES,
    STABLE_AUDIO_CONFIG,
    TRANSFORMERS,
    TRANSFORMERS_WEIGHTS,
    VOCOS_FILE,
    items_within,
    licence_of,
    read_json,
)
from reencoder_pipeline.errors import AutoencoderError, in_one_line

# Keys of config.json by which transformers and diffusers import code, fetch it from the hub, or load another model.
BRINGS_CODE = {"auto_map", "custom_pipelines", "trust_remote_code", "quantization_config", "base_model_name_or_path"}
BRINGS_CODE |= {"attn_implementation", "_attn_implementation", "_attn_implementation_internal", "gguf_file"}
BRINGS_CODE |= {"experts_implementation", "_experts_implementation", "_experts_implementation_internal"}
BRINGS_CODE |= {"use_kernels", "kernel_config", "transformers_weights"}
HARMLESS: tuple[Any, ...] = (None, False, {}, [], "eager", "sdpa")
ADAPTERS = ("adapter_config.json",)


@dataclass(frozen=True)
class Source:
    """An autoencoder found on disk. `path` is its folder or its only file, `config` the content of its config file."""

    name: str
    path: Path
    family: str
    config: dict[str, Any]
    licence: str


def find_source(name: str, options: Options, *, families: Sequence[str]) -> Source:
    """Find an autoencoder on disk or download it; an existing path wins over a hub id of the same name.

    AutoencoderError if neither exists, or its family is not in `families`.
    """
    path = Path(name).expanduser()
    if path.exists():
        if options.revision is not None:
            what = "only hub ids have revisions, and this is a path on disk"
            raise AutoencoderError(what, where=path, value=options.revision, remedy="leave out `revision`")
        path = path / options.subfolder if options.subfolder else path
        if not path.exists():
            raise AutoencoderError("there is no such subfolder", where=path, remedy=_subfolders(path.parent, families))
    else:
        family, _ = _identify(download_from_hub(name, options), families)
        path = download_from_hub(name, options, weights=_weights_patterns(family, options.subfolder))
    try:
        family, config = _identify(path, families)
    except OSError as error:
        remedy = "give a file or folder that can be read"
        raise AutoencoderError("the path cannot be read", where=path, value=in_one_line(error), remedy=remedy) from None
    return Source(name, path, family, config, licence_of(name, family))


def weight_pieces(index: Path) -> set[str]:
    """The names of the files in an index of sharded weights. AutoencoderError unless all lie beside the index."""
    pieces = read_json(index).get("weight_map")
    pieces = set(map(str, pieces.values())) if isinstance(pieces, dict) else set()
    if wrong := sorted(name for name in pieces if not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", name)):
        what = "the index names files that do not lie beside it, or are not safetensors"
        remedy = "do not use these weights, and report them to their source"
        raise AutoencoderError(what, where=index, value=in_one_line(wrong[0]), remedy=remedy)
    if not pieces:
        raise AutoencoderError("the index names no files", where=index, remedy="fetch the weights again")
    return pieces


def refuse_what_brings_code(folder: Path) -> None:
    """Raise an AutoencoderError if config.json, or a file beside it, makes a library import, run or fetch something."""
    if odd := [path for path in sorted(folder.iterdir()) if path.exists() and not path.is_file() and not path.is_dir()]:
        what = "a pipe or device lies among the weights, and reading it may never end"
        raise AutoencoderError(what, where=odd[0], remedy="remove it")
    found = [name for name in ADAPTERS if (folder / name).exists()]
    found += [
        key for key, value in items_within(read_json(folder / CONFIG)) if key in BRINGS_CODE and value not in HARMLESS
    ]
    for stem in (DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS):
        if (index := folder / f"{stem}.safetensors.index.json").is_file():
            weight_pieces(index)
    if found:
        raise AutoencoderError(
            "the model's folder names code or another model, which is never loaded because a file names it",
            where=folder,
            value=", ".join(sorted(set(found))),
            remedy="remove these from a copy of the folder if you know what they do, or write a function of your own "
            "(package.module:function)",
        )


def _identify(path: Path, families: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(family, config), from the config beside the weights or, without one, from the name of the weights file."""
    if not path.is_file() and not path.is_dir():
        remedy = "give a file or folder of weights"
        raise AutoencoderError("the path is neither a file nor a folder", where=path, remedy=remedy)
    if path.is_file():
        for family, names in NAMED_FILES.items():
            if path.name in names:
                return family, {}
        if path.suffix == ".safetensors":
            return "vocos", {}
        remedy = "give the folder that holds a model's config and weights, or a file of `reencoder-autoencoder train`"
        raise AutoencoderError("the family of this file is not known without its config", where=path, remedy=remedy)
    if (path / VOCOS_FILE).is_file():
        return "vocos", {}
    for family, names in NAMED_FILES.items():
        if any((path / name).is_file() for name in names):
            return family, {}
    if (path / STABLE_AUDIO_CONFIG).is_file():
        return "stable_audio_tools", read_json(path / STABLE_AUDIO_CONFIG)
    if not (path / CONFIG).is_file():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "an empty folder"
        what = f"there is no {CONFIG} in the folder"
        raise AutoencoderError(what, where=path, value=found, remedy=_subfolders(path, families))
    config = read_json(path / CONFIG)
    listed, kind = config.get("architectures"), str(config.get("model_type", ""))
    named = [config.get("_class_name"), *(listed if isinstance(listed, list) else ()), TRANSFORMERS.get(kind)]
    known = next((name for name in named if isinstance(name, str) and name in families), None)
    if known is None:
        found = in_one_line(", ".join(str(name) for name in (*named, kind) if name) or "no class name")
        what, known_here = "the autoencoder's family is unknown", ", ".join(families)
        remedy = f"choose one of {known_here}; or write a function that loads it and name it package.module:function"
        raise AutoencoderError(what, where=path / CONFIG, value=found, remedy=remedy)
    return known, config


def _subfolders(path: Path, families: Sequence[str]) -> str:
    """The remedy for a folder without a config: name the subfolders that hold an autoencoder."""
    holding = []
    for config in sorted(path.glob(f"*/{CONFIG}")) if path.is_dir() else ():
        values = read_json(config)
        if values.get("_class_name") in families or TRANSFORMERS.get(str(values.get("model_type", ""))) in families:
            holding.append(config.parent.name)
    if holding:
        return f"did you mean #subfolder={' or #subfolder='.join(holding)}?"
    return f"give the folder of the autoencoder itself: {CONFIG} (or {STABLE_AUDIO_CONFIG}) beside its weights"


def _weights_patterns(family: str, subfolder: str | None) -> list[str]:
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    if family == "vocos" or family in NAMED_FILES:
        return []  # already downloaded with the configs
    if family == "stable_audio_tools":
        return [f"{prefix}model.safetensors"]
    stem = TRANSFORMERS_WEIGHTS if family in TRANSFORMERS.values() else DIFFUSERS_WEIGHTS
    patterns = [f"{prefix}{stem}.safetensors", f"{prefix}{stem}-*.safetensors"]
    if family == "MMAudioVAE":  # it decodes to mel spectrograms; the vocoder lies beside it
        patterns += [f"vocoder/{CONFIG}", f"vocoder/{stem}.safetensors", f"vocoder/{stem}-*.safetensors"]
    return patterns
