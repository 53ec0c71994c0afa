"""The first plugin door: what an autoencoder is to the rest of the house, and how a name becomes one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from reencoder_pipeline.errors import AutoencoderError
from reencoder_pipeline.latents import LatentSpec


class Autoencoder(Protocol):
    """A frozen autoencoder in evaluation mode (A_E and A_D of the paper, section 2.1).

    `context` is how many frames at each edge of an encoded or decoded piece may differ from the same frames of the
    whole track; the pipeline gives pieces that much real context and throws it away.
    """

    @property
    def spec(self) -> LatentSpec: ...

    @property
    def context(self) -> int: ...

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 1, L) float32 -> posterior mean (B, C, ceil(L / hop)) float32; the end is padded with silence."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T) float32 -> (B, 1, T * hop) float32."""
        ...


def load_autoencoder(name: str, *, device: str = "cpu") -> Autoencoder:
    """`name` is a shipped autoencoder ("house"), weights on disk, or "package.module:function" called with the device.

    Nothing is downloaded. AutoencoderError says what was looked for.
    """
    if name in AUTOENCODERS:
        return AUTOENCODERS[name](device)
    if Path(name).exists():
        from reencoder_pipeline.autoencoders.vocos.adapter import VocosAutoencoder

        path = Path(name)
        return VocosAutoencoder.load(path / "autoencoder.safetensors" if path.is_dir() else path, device=device)
    if ":" in name:
        return _imported(name)(device)
    known = ", ".join(AUTOENCODERS)
    raise AutoencoderError(
        "unknown autoencoder", value=name, remedy=f"one of: {known}; a path to weights; or package.module:function"
    )


def _house(device: str) -> Autoencoder:
    from reencoder_pipeline.autoencoders.vocos.adapter import HOUSE_WEIGHTS, VocosAutoencoder

    return VocosAutoencoder.load(HOUSE_WEIGHTS, device=device, name="house")


AUTOENCODERS: dict[str, Callable[[str], Autoencoder]] = {"house": _house}


def _imported(name: str) -> Callable[[str], Autoencoder]:
    module_name, _, function_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise AutoencoderError("cannot be imported", where=name, value=str(error)) from None
