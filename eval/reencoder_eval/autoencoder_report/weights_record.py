"""Reads what a file of weights says about itself: size, digest, and how it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reencoder_pipeline.autoencoder import HOUSE, parse_name
from reencoder_pipeline.config import read_yaml
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.stores.digests import file_digest


def weights_file(name: str) -> Path | None:
    """The safetensors file behind an autoencoder's name; None where there is no single file to be seen."""
    plain, _ = parse_name(name)
    if plain == HOUSE:
        from reencoder_pipeline.autoencoders.vocos.autoencoder import HOUSE_WEIGHTS

        return HOUSE_WEIGHTS
    try:
        path = Path(plain).expanduser()
        path = path / "autoencoder.safetensors" if path.is_dir() else path
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no path at all: too long, or of an unknown user
        return None


def weights_record(name: str, *, digest: str) -> dict[str, Any] | None:
    """Describe the weights of this digest. None without a file, or if it holds others by now (a training goes on).

    `header` is the metadata of the safetensors file, with JSON read as such; `run` the settings of the training whose
    folder the file lies in.
    """
    path = weights_file(name)
    if path is None or file_digest(path) != digest:
        return None
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "header": _header(path),
        "run": _run_settings(path.with_name("config.yaml")),
    }


def _header(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return {}  # weights of another kind: their family could load them, and that is enough
    header: dict[str, Any] = {}
    for key, text in sorted(metadata.items()):
        try:
            header[key] = json.loads(text)
        except (ValueError, RecursionError):
            header[key] = text
    return header


def _run_settings(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return read_yaml(path)
    except ConfigError:
        return None  # not a training's settings
