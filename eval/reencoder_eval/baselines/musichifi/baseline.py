"""MusicHiFi-BWE and MusicHiFi-M2S as baselines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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


TEXTS = {
    "bwe": ("MusicHiFi-BWE", "the low band plus a waveform that BigVGAN makes from its mel spectrum"),
    "m2s": ("MusicHiFi-M2S", "the mono signal as mid, and a side that BigVGAN makes from its mel spectrum"),
}


def load_baseline_of(task: MusicHiFiTask, *, weights: Path | None, device: str) -> Baseline:
    """Bandwidth extension or, keeping the mid, upmixing; without weights the baseline has costs and no scores."""
    model = None if weights is None else load_musichifi(weights, task=task).to(device)
    sizes = GeneratorSizes() if model is None else model.generator.sizes

    def run(audio: np.ndarray, sample_rate: int) -> np.ndarray:
        assert model is not None, "a baseline without weights is never run"
        made = _waveform(model, audio, sample_rate=sample_rate)
        return made if task == "bwe" else np.concatenate([audio + made, audio - made])

    def count() -> FlopCount:
        once = count_generator(sizes)
        note = f"for two channels, as the paper counts; the one forward pass that makes the side is {once.gflops:.0f}"
        return once if task == "bwe" else replace(once, gflops=2 * once.gflops, note=note)

    name, (label, about) = f"musichifi_{task}", TEXTS[task]
    digest = digest_of(name, VERSION, file_digest(weights) if weights else None)
    return Baseline(name, label, f"{about}; our implementation", task, digest, run if model else None, count)


load_musichifi_bwe, load_musichifi_m2s = partial(load_baseline_of, "bwe"), partial(load_baseline_of, "m2s")


def count_generator(sizes: GeneratorSizes) -> FlopCount:
    """The generator's FLOPs per second of audio. The mel spectrum would add 0.01 %. Counting takes no memory."""
    with torch.device("meta"):
        generator = Generator(sizes)
        mel = torch.zeros(1, sizes.mel_bands, COUNTED_FRAMES)
    return count_flops(generator, mel, modules=[generator], seconds=COUNTED_FRAMES / FRAME_RATE)


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
