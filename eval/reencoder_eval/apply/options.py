"""The options of `reencoder-apply upsample` and `upmix`, except those that say where outputs go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ApplyOptions:
    """`upsample` and `upmix` name the modules of the two steps; None leaves a step out.

    `autoencoder`: None takes the one that the modules were trained on, if that is house. `band_hz` replaces the
    measured end of an input's band. `crossover` keeps the original below it. `force` mixes true stereo down first.
    `mono_compatible` makes the input itself the mid of the output; `width` scales the side. `seed`, `variants`,
    `like` and `share` choose the conditions, see `variants_of`.
    """

    upsample: str | Path | None = None
    upmix: str | Path | None = None
    autoencoder: str | None = None
    band_hz: float | None = None
    crossover: bool = True
    force: bool = False
    mono_compatible: bool = False
    width: float = 1.0
    seed: int | None = None
    variants: int = 1
    like: Path | None = None
    share: float | None = None
    device: str = "auto"
