"""A folder with modules and music to apply them to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn

from reencoder_eval.apply.files.inputs import find_inputs
from reencoder_eval.apply.files.outputs import Outputs
from reencoder_eval.apply.files.scratch import Scratch
from reencoder_eval.apply.options import ApplyOptions
from reencoder_eval.apply.run import Outcome, apply_to
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.trained_module import TrainedModule
from tiny_build import music

RATE = 44_100


@dataclass(frozen=True)
class Place:
    """A tiny autoencoder, modules for its latents, and a folder to work in."""

    folder: Path
    autoencoder: Path
    bwe: Path
    m2s: Path
    plain_m2s: Path

    def write(self, name: str, audio: np.ndarray, rate: int = RATE, *, subtype: str | None = None) -> Path:
        path = self.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, audio.T, rate, subtype=subtype)
        return path

    def apply(self, *inputs: Path, out: str = "out", **settings: Any) -> list[Outcome]:
        """`settings` are those of Outputs and of ApplyOptions."""
        files = find_inputs([str(one) for one in inputs], out=self.folder / out, stdin=sys.stdin.buffer)
        of_outputs = {
            name: settings.pop(name) for name in ("form", "latents", "overwrite", "dry_run") if name in settings
        }
        options = ApplyOptions(**{"autoencoder": str(self.autoencoder), "device": "cpu", **settings})
        return list(apply_to(files, Outputs(self.folder / out, **of_outputs), options))


def low_music(seconds: float = 1.5, *, channels: int = 1, rate: int = 22_050) -> np.ndarray:
    """Music that reaches up to its Nyquist frequency."""
    return resample(music(seconds=seconds, channels=channels), RATE, rate)


def mono(seconds: float = 1.5) -> np.ndarray:
    return music(seconds=seconds, channels=1)


def read(path: Path | str) -> np.ndarray:
    return soundfile.read(path, dtype="float64", always_2d=True)[0].T


def level(audio: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(audio)) + 1e-30))


def lowpassed(audio: np.ndarray, edge: float) -> np.ndarray:
    spectrum = np.fft.rfft(audio * np.hanning(audio.shape[1]))
    spectrum[:, np.fft.rfftfreq(audio.shape[1], 1 / RATE) > edge] = 0
    return np.fft.irfft(spectrum, audio.shape[1])


def random_module(spec: LatentSpec, *, task: str = "bwe", response_frames: int | None = None) -> TrainedModule:
    """One whose GRN matters: an untrained one is the identity there."""
    torch.manual_seed(0)
    channels = spec.channels
    out_channels = channels * len(get_task(task).targets)
    module = LatentModule(channels, out_channels, blocks=2, width=12, response_frames=response_frames)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    scalings = (Scaling(torch.zeros(n, 1), torch.ones(n, 1)) for n in (channels, out_channels))
    return TrainedModule(module.eval(), get_task(task), spec, Normalisation(*scalings), {"steps": 1})


def noise(width: int, length: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((width, length)).astype(np.float32) / 4


def filled(values: np.ndarray, folder: Path, *, by: int = 1000) -> Scratch:
    scratch = Scratch(len(values), folder=folder)
    for start in range(0, values.shape[1], by):
        scratch.append(values[:, start : start + by])
    return scratch


def whole(scratch: Scratch) -> np.ndarray:
    return scratch.read(0, len(scratch))


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder
