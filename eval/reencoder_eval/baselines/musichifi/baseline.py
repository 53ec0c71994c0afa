"""MusicHiFi-BWE and MusicHiFi-M2S as baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_eval.baselines.in_segments import run_in_segments
from reencoder_eval.baselines.musichifi.checkpoint import load_musichifi
from reencoder_eval.baselines.musichifi.generator import Generator, GeneratorSizes
from reencoder_eval.baselines.musichifi.model import FRAME_RATE, HOP, SAMPLE_RATE, MusicHiFi, MusicHiFiTask
from reencoder_eval.metrics.flops import FlopCount, count_flops
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.stores.digests import file_digest

VERSION = 1  # raise it if the same weights give another output
SEGMENT = 1722 * HOP  # 10 s: an activation at its doubled rate takes 86 MB, and a few exist at once
COUNTED_FRAMES = 172  # a second, as the paper counts


def load_musichifi_bwe(*, weights: Path | None, device: str) -> Baseline:
    """Bandwidth extension by MusicHiFi; without weights the baseline has costs and no scores."""
    model, sizes = _loaded(weights, "bwe", device=device)
    return Baseline(
        name="musichifi_bwe",
        label="MusicHiFi-BWE",
        about="the low band plus a waveform that BigVGAN makes from its mel spectrum; our implementation",
        task="bwe",
        digest=_digest("musichifi_bwe", weights),
        run=model and (lambda audio, sample_rate: _waveform(model, audio, sample_rate=sample_rate)),
        count=lambda: count_generator(sizes),
    )


def load_musichifi_m2s(*, weights: Path | None, device: str) -> Baseline:
    """Mono-to-stereo upmixing by MusicHiFi, which keeps the mid; without weights it has costs and no scores."""
    model, sizes = _loaded(weights, "m2s", device=device)
    return Baseline(
        name="musichifi_m2s",
        label="MusicHiFi-M2S",
        about="the mono signal as mid, and a side that BigVGAN makes from its mel spectrum; our implementation",
        task="m2s",
        digest=_digest("musichifi_m2s", weights),
        run=model and _upmix(model),
        count=lambda: _twice(count_generator(sizes)),
    )


def count_generator(sizes: GeneratorSizes) -> FlopCount:
    """The generator's FLOPs per second of audio. The mel spectrum would add 0.01 %. Counting takes no memory."""
    with torch.device("meta"):
        generator = Generator(sizes)
        mel = torch.zeros(1, sizes.mel_bands, COUNTED_FRAMES)
    return count_flops(generator, mel, modules=[generator], seconds=COUNTED_FRAMES / FRAME_RATE)


def _twice(count: FlopCount) -> FlopCount:
    note = f"for two channels, as the paper counts; the one forward pass that makes the side is {count.gflops:.0f}"
    return replace(count, gflops=2 * count.gflops, note=note)


def _loaded(weights: Path | None, task: MusicHiFiTask, *, device: str) -> tuple[MusicHiFi | None, GeneratorSizes]:
    if weights is None:
        return None, GeneratorSizes()
    model = load_musichifi(weights, task=task).to(device)
    return model, model.generator.sizes


def _digest(name: str, weights: Path | None) -> str:
    return digest_of(name, VERSION, file_digest(weights) if weights else None)


def _upmix(model: MusicHiFi) -> Callable[[np.ndarray, int], np.ndarray]:
    def run(mid: np.ndarray, sample_rate: int) -> np.ndarray:
        side = _waveform(model, mid, sample_rate=sample_rate)
        return np.concatenate([mid + side, mid - side])

    return run


def _waveform(model: MusicHiFi, audio: np.ndarray, *, sample_rate: int) -> np.ndarray:
    """(1, samples) -> the model's output, (1, samples)."""
    if sample_rate != SAMPLE_RATE:
        raise EvaluationError(
            f"MusicHiFi works at {SAMPLE_RATE} Hz only",
            value=f"{sample_rate} Hz",
            remedy="leave it out of this evaluation",
        )
    x = torch.from_numpy(np.ascontiguousarray(audio))[None].to(next(model.parameters()).device)
    return run_in_segments(model, x, segment=SEGMENT, context=model.context, factor=1, multiple=HOP)[0].cpu().numpy()
