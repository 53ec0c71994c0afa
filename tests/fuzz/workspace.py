"""Sound files of every kind that a reader of ours is given, made once; the fuzz targets damage copies of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from reencoder_eval.baselines.aero.checkpoint import save_aero
from reencoder_eval.baselines.aero.model import Aero, AeroConfig
from stable_audio_folder import write_item
from tiny_build import build, music, save_tiny_autoencoder
from tiny_musichifi import saved
from training_run import RECIPES, run

SOUNDS = {
    "a.wav": ("WAV", "PCM_16"), "float.wav": ("WAV", "FLOAT"), "x.wav": ("WAVEX", "PCM_24"),
    "a.flac": ("FLAC", "PCM_16"), "a.ogg": ("OGG", "VORBIS"), "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "a.aiff": ("AIFF", "PCM_16"), "a.au": ("AU", "PCM_16"), "a.caf": ("CAF", "PCM_16"), "a.w64": ("W64", "PCM_16"),
    "a.rf64": ("RF64", "PCM_16"),
}  # fmt: skip


@dataclass(frozen=True)
class Workspace:
    """Where the sound files lie. `caches` are named by their storage, and "int8"; `runs` by their recipe."""

    folder: Path
    sounds: tuple[Path, ...]
    autoencoder: Path
    caches: dict[str, Path]
    runs: dict[str, Path]
    items: Path
    aero: tuple[Path, ...]
    musichifi: Path


def make_workspace(folder: Path) -> Workspace:
    """Half a minute of work, most of it three builds and two trainings."""
    sounds = [_sound(folder / "sounds" / name, *kinds) for name, kinds in SOUNDS.items()]
    autoencoder = save_tiny_autoencoder(folder / "tiny.safetensors")
    for number in range(6):
        path = folder / "music" / f"t{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, music(seconds=2, seed=number).T, 44_100)
    caches = {}
    others: tuple[dict[str, Any], ...] = {"format": "webdataset"}, {"precision": "int8"}
    for name, settings in zip(("zarr", "webdataset", "int8"), ({}, *others), strict=True):
        caches[name] = folder / name
        build(folder / "music", caches[name], autoencoder, tasks=["bwe", "m2s"], **settings)
    runs = {}
    for recipe in ("l1", "variational"):
        runs[recipe] = folder / "runs" / recipe
        few = {**RECIPES[recipe], "steps": 2, "window_seconds": 0.5, "valid_every": 1, "valid_windows": 4}
        run(caches["zarr"], runs[recipe], **few)
    for number in range(2):
        frames = np.random.default_rng(number).standard_normal((8, 40)).astype(np.float32)
        write_item(folder / "items", number, frames, length=50)
    model = Aero(AeroConfig(channels=4, n_fft=64, hop=16, strides=(4, 2, 2)))
    save_aero(folder / "aero.safetensors", model, training={})
    package = {"models": {"generator": {"kwargs": {"hop_length": 16, "lr_sr": 11_025, "hr_sr": 22_050},
                                        "state": model.state_dict()}}}  # fmt: skip
    torch.save(package, folder / "aero.th")
    return Workspace(
        folder, tuple(sounds), autoencoder, caches, runs, folder / "items",
        (folder / "aero.safetensors", folder / "aero.th"), saved("bwe", folder),
    )  # fmt: skip


def _sound(path: Path, container: str, subtype: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    rate = 48_000 if subtype == "OPUS" else 44_100
    audio = music(seconds=0.4, rate=rate, channels=2)
    with soundfile.SoundFile(path, "w", rate, 2, subtype=subtype, format=container) as file:
        if container in ("WAV", "FLAC", "OGG"):
            file.title = "a title"
        file.write(audio.T)
    return path
