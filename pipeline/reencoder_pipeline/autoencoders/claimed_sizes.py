"""Compares the sizes that a library's config.json claims with the weights beside it, before a model is made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reencoder_pipeline.autoencoders.known_files import items_within
from reencoder_pipeline.errors import AutoencoderError, in_one_line

COUNTS = re.compile(r"(layers|blocks|depths?|n_codebooks|num_quantizers|repeats?)$")  # keys that count repeated parts
SLACK = 2**20  # numbers that a model may hold beside its weights, such as windows


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
