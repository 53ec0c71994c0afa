"""A MusicHiFi as small as can be, and what tests feed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from reencoder_eval.baselines.musichifi.checkpoint import save_musichifi
from reencoder_eval.baselines.musichifi.generator import GeneratorSizes
from reencoder_eval.baselines.musichifi.model import MusicHiFi, MusicHiFiTask

TINY = GeneratorSizes(channels=64, mel_bands=16)
TASKS: tuple[MusicHiFiTask, ...] = ("bwe", "m2s")


def tiny(task: MusicHiFiTask) -> MusicHiFi:
    torch.manual_seed(0)
    return MusicHiFi(task, TINY).eval()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def saved(task: MusicHiFiTask, folder: Path) -> Path:
    save_musichifi(folder / f"{task}.safetensors", tiny(task), training={"steps": 3})
    return folder / f"{task}.safetensors"
