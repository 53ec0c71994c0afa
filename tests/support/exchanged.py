"""Latents that are exported and imported in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.exchange.export_latents import Exported, export_cache
from reencoder_pipeline.exchange.import_latents import Imported, import_latents
from reencoder_pipeline.latents import LatentSpec
from tiny_cache import SPEC

JOINT = LatentSpec("joint", "1" * 64, sample_rate=44100, hop=1024, channels=8, stereo="joint")


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def export(source: Path, out: Path, **options: Any) -> Exported:
    return export_cache(source, out, progress=options.pop("progress", silent), **options)


def bring_in(
    folders: dict[str, Path], out: Path, *, spec: LatentSpec = SPEC, **settings: Any
) -> tuple[Imported, list[dict[str, str]]]:
    progress = settings.pop("progress", silent)
    return import_latents(folders, out, spec, CacheConfig(**settings), progress=progress)


def music(frames: int, *, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SPEC.channels, frames)).astype(dtype)


def stop(done: int, total: int) -> None:
    raise KeyboardInterrupt
