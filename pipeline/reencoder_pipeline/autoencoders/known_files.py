"""Lists what is known of published weights, their files and their licences, and reads a JSON config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reencoder_pipeline import safe_text
from reencoder_pipeline.errors import AutoencoderError

VOCOS_FILE = "autoencoder.safetensors"
CONFIG, STABLE_AUDIO_CONFIG = "config.json", "model_config.json"
# Families whose weights are one file, recognised by its name.
NAMED_FILES = {
    "music2latent": ("music2latent.pt", "music2latent.safetensors"),
    "codicodec": ("codicodec.pt", "codicodec.safetensors"),
}
TRANSFORMERS = {"dac": "DacModel", "encodec": "EncodecModel"}  # model_type -> class
JSON_BYTES = 2**24
DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model", "model"
# Licence terms, which `reencoder-cache build` and `plan` show.
UNVERIFIED = "unverified: check the card of the weights"
STABILITY = "Stability AI Community License: read its terms, commercial use is limited"
NON_COMMERCIAL = "CC-BY-NC 4.0: not for commercial use"

# By the start of a hub id (lower case), or by family if all its public weights share their terms.
BY_ID = {
    "stabilityai/": STABILITY,
    "ace-step/ace-step": "MIT",
    "descript/": "MIT",
    "sonycslparis/": NON_COMMERCIAL,
}
BY_FAMILY = {
    "AutoencoderSAME": f"{STABILITY} (if these are Stability AI's weights)",
    "MMAudioVAE": f"{NON_COMMERCIAL} (if these are MMAudio's weights)",
    "DacModel": "MIT (if these are Descript's weights)",
    "music2latent": NON_COMMERCIAL,
    "codicodec": NON_COMMERCIAL,
}


def items_within(config: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) for every key of a config, however deep, and for every member of a list below a key."""
    waiting = [("", config)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += [(str(name), each) for name, each in value.items()]
        elif isinstance(value, list):
            waiting += [(key, each) for each in value]


def read_json(file: Path) -> dict[str, Any]:
    values = safe_text.read_json(file, kind=AutoencoderError, what="model's configuration", limit=JSON_BYTES)
    if not isinstance(values, dict):
        what, remedy = "the file is not a model's configuration", "fetch it again"
        raise AutoencoderError(what, where=file, value=type(values).__name__, remedy=remedy)
    return values


def licence_of(name: str, family: str) -> str:
    """The licence terms as text, or `UNVERIFIED`. `name` is a hub id or a path."""
    known = (terms for start, terms in BY_ID.items() if name.lower().startswith(start))
    return next(known, BY_FAMILY.get(family, UNVERIFIED))
