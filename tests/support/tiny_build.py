"""A tiny autoencoder and a little music, so that real caches are built in seconds; and autoencoders that fail.

The `load_*` functions are given to a build as `tiny_build:load_slow`. They wrap the weights that TINY_AUTOENCODER
names, and so belong to the same cache as those.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.autoencoders.vocos.weights import save_vocos
from reencoder_pipeline.build.build import BuildResult, Run, build_cache
from reencoder_pipeline.build.parts import parse_part
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.shards import write_shard as shard
from reencoder_pipeline.stores import writer_id as owners

Built = Callable[[str], Path]  # a storage's name to a finished cache: the fixture `built`

# Hop 256: the smallest shard, 1,024 frames, is then six seconds of music.
SHAPE = VocosConfig(n_fft=512, stft_hop=64, fine=(48, 96, 1), coarse=(64, 128, 1), latent_channels=8)
NUM_SHARDS = 6
# id -> (sample rate, channels, seconds). One name each with another format, a space, accents, capitals, subfolders.
MUSIC = {
    "Album 1/01 first.wav": (44_100, 2, 6.5),
    "Album 1/02 second.flac": (48_000, 2, 3.3),
    "Album 1/03 Ängste und Öl.ogg": (44_100, 2, 4.0),
    "album.2/third [live] (2).mp3": (44_100, 2, 5.1),
    "album.2/音楽.aiff": (44_100, 2, 3.0),
    "fourth.FLAC": (96_000, 2, 6.2),
    "mono.wav": (22_050, 1, 6.1),
    "short.wav": (44_100, 2, 0.05),
    "zeros.wav": (44_100, 2, 5.0),
}


def save_tiny_autoencoder(path: Path) -> Path:
    torch.manual_seed(0)
    model = Vocos(SHAPE)
    for parameter in model.parameters():  # the initialisation is so small that the latents would all but vanish
        parameter.data *= 3 if parameter.dim() > 1 else 1
    save_vocos(model, path, training={})
    return path


def write_music(folder: Path) -> Path:
    import soundfile

    for position, (name, (rate, channels, seconds)) in enumerate(MUSIC.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = music(seconds=seconds, rate=rate, channels=channels, seed=position)
        audio *= name != "zeros.wav"
        soundfile.write(path, audio.T, rate)
    return folder


def music(*, seconds: float, rate: int = 44_100, channels: int = 2, seed: int = 0) -> np.ndarray:
    """(channels, samples) float32, peak 0.7: a chord for each half second over noise that fills the band."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    pitches = 110.0 * 2.0 ** (rng.integers(0, 36, size=(int(seconds * 2) + 1, 3)) / 12.0)
    phases = 2 * np.pi * times * pitches[(times * 2).astype(int)].T  # (3, samples)
    chord = np.sin(phases).sum(axis=0)
    gains = rng.uniform(0.3, 1.0, size=(channels, 1))
    audio = gains * chord + 0.2 * rng.standard_normal((channels, len(times)))
    return (0.7 * audio / np.abs(audio).max()).astype(np.float32)


def tiny_config(autoencoder: Path | str, **settings: Any) -> CacheConfig:
    few = {"shard_frames": 1024, "segment_seconds": 1.5, "valid_share": 0.2, "test_share": 0.2}
    return CacheConfig.model_validate({"autoencoder": str(autoencoder), **few, **settings})


def build(
    source: Path,
    out: Path | str,
    autoencoder: Path | str,
    *,
    workers: int = 1,
    part: str | None = None,
    run: Run | None = None,
    **settings: Any,
) -> BuildResult:
    config, its_part = tiny_config(autoencoder, **settings), None if part is None else parse_part(part)
    return build_cache(source, out, config, progress=lambda done, total: None, workers=workers, part=its_part, run=run)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a finished or unfinished cache by its path, without the lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.partial*")]


def shard_files(folder: Path) -> dict[str, bytes]:
    """Those of `tree` that are shards and their commit records."""
    return {name: content for name, content in tree(folder).items() if name.startswith("shards/")}


def placed_files(folder: Path) -> dict[str, bytes]:
    """Those of `shard_files` that are at their final place: no scratch files."""
    return {name: content for name, content in shard_files(folder).items() if ".partial" not in name}


def scratch_name(its_owner: str | None = None) -> str:
    """A name such as `atomic.beside` gives; by default of a process of this machine that has ended."""
    dead = f"{owners.owner().partition('-')[0]}-{2**22 + 1}-1"
    return f".reencoder-{its_owner or dead}-{secrets.token_hex(4)}.partial"


def copied(folder: Path, to: Path) -> Path:
    """Hard links: a build replaces files and never writes into them; whoever damages one unlinks it first."""
    return Path(shutil.copytree(folder, to, copy_function=os.link))


class SlowAutoencoder:
    """Takes its time, so that there is a middle of a build to kill it in."""

    def __init__(self, inner: Autoencoder, *, seconds: float) -> None:
        self._inner, self._seconds = inner, seconds
        self.spec, self.context = inner.spec, inner.context
        self.local, self.licence = inner.local, inner.licence

    def encode(self, audio: Tensor) -> Tensor:
        time.sleep(self._seconds)
        return self._inner.encode(audio)

    def decode(self, latents: Tensor) -> Tensor:
        return self._inner.decode(latents)


def load_slow(device: str) -> Autoencoder:
    """Encodes slowly, and in a worker process writes slowly too: half of the moments of a build lie within a write."""
    if parent_process() is not None:
        quick = shard.sync

        def sync(path: Path) -> None:
            time.sleep(0.02)
            quick(path)

        shard.sync = sync
    return SlowAutoencoder(load_autoencoder(os.environ["TINY_AUTOENCODER"], device=device), seconds=0.02)
