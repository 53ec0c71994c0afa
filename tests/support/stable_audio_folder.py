"""Folders of pre-encoded latents as stable-audio-tools writes and reads them, written down independently of ours."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

SPLIT_OFF = ".npy"


def write_item(
    folder: Path,
    number: int,
    music: np.ndarray,
    *,
    length: int,
    file: str = "song.wav",
    start: float = 0.0,
    hop: int = 1024,
    rate: int = 44_100,
    **changed: Any,
) -> Path:
    """What its pre-encoding stores of (channels, frames) of music in a crop of `length` frames; the path of the `.npy`.

    `start` is where a crop begins in its file, as a share of it. `changed` replaces fields; None leaves one out.
    """
    path = folder / "0" / f"{0:03d}{number:06d}{0:04d}{SPLIT_OFF}"
    path.parent.mkdir(parents=True, exist_ok=True)
    latents = np.full((len(music), length), 7.0, music.dtype)  # padding is encoded silence, not zeros
    latents[:, : music.shape[1]] = music
    np.save(path, latents)
    fields = {
        "path": f"/data/audio/{file}",
        "relpath": file,
        "timestamps": [start, start + 0.5],
        "seconds_start": math.floor(start * 100),
        "seconds_total": math.ceil(music.shape[1] * hop / rate),
        "padding_mask": [1] * music.shape[1] + [0] * (length - music.shape[1]),
        "sample_rate": rate,
        "load_time": 0.25,
        **changed,
    }
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    return path


def read_dataset(folder: Path, *, crop: int | None = None) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """What its dataset hands to a training: latents (channels, frames) and their fields, cropped from the start."""
    items = []
    for path in sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() == SPLIT_OFF and p.name[0] != "."):
        latents = torch.from_numpy(np.load(path))
        info = json.loads(Path(path.replace(SPLIT_OFF, ".json")).read_text())  # every ".npy" in it, as there
        mask = info["padding_mask"]
        assert len(mask) - mask[::-1].index(1) > 0
        latents, mask = latents[:, :crop], mask[:crop]
        assert info["seconds_total"] >= 0
        items.append((latents, {**info, "padding_mask": [torch.tensor(mask)]}))
    return items


def batch(items: list[tuple[torch.Tensor, dict[str, Any]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and masks stacked, as its collation and its training step do."""
    return torch.stack([x for x, _ in items]), torch.stack([info["padding_mask"][0] for _, info in items])
