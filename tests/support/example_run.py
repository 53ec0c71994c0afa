"""The folder of an evaluation that never was, with names that would harm a page that does not escape them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from reencoder_eval.evaluation_folder import COSTS, FAILURES, RUN, SCORES, audio_path, write_json
from reencoder_pipeline.stores.jsonl import write_json_lines

RATE, SECONDS = 44_100, 1.0
HOSTILE = "<script>alert('x')</script> & \"Ours\""
LABELS = {"autoencoder": "Autoencoder, full band", "sinc": "Input (sinc)", "ours:x": HOSTILE}
CLIPS = ("first at 1.000 s", "second & last at 2.000 s", "unheard at 3.000 s")


def tone(hertz: float, *, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(SECONDS * RATE)) / RATE)).astype(np.float32)


def write_run(run: Path, *, channels: int = 1) -> Path:
    """As `evaluate` leaves it: three clips, two of them with audio, in which the estimates are ever quieter."""
    count = {
        "gflops": 0.37,
        "parameters": 4_300_000,
        "note": "for <two> channels: a reason",
    }
    rows: list[dict[str, Any]] = []
    (run / "audio").mkdir(parents=True)
    for number, clip in enumerate(CLIPS):
        for place, (system, label) in enumerate(LABELS.items()):
            value = 1 + number + 0.1 * place
            bands = {"full": value, "low": value / 2, "high": None if number == 1 else 2 * value}
            scores = {f"{metric}_{band}": bands[band] for metric in ("stft_d", "mel_d") for band in bands}
            row = {"clip": clip, "track": clip, "system": system, "label": label, "scores": scores, "key": f"{number}"}
            rows.append(row)
            if number < 2:
                path = audio_path(run, clip, system, key=row["key"])
                _write(path, tone(500.0 * (place + 2), level=0.2 / (place + 1)), channels=channels)
        if number < 2:
            _write(audio_path(run, clip, "reference"), tone(500.0), channels=channels)
    write_json_lines(run / SCORES, rows)
    write_json_lines(run / FAILURES, [{"where": "<b>broken</b>.wav", "what": "cannot be read", "found": "text"}])
    description = {
        "title": "Bandwidth extension & more",
        "split": "test",
        "clip_seconds": SECONDS,
        "sample_rate": RATE,
        "autoencoder": {"autoencoder": "<house>", "channels": 64, "hop": 1024, "sample_rate": RATE},
        "resampler": "soxr_vhq",
        "systems": [{"label": label, "about": f"about {name}", "trained": True} for name, label in LABELS.items()],
        "clips": [{"id": clip, "licence": "CC <BY>"} for clip in CLIPS],
        "listening": CLIPS[:2],
        "silent": [],
        "near_mono": [],
        "too_short": ["a", "b"],
    }
    write_json(run / RUN, description)
    systems = {
        name: {"label": label, "trained": True, "stages": ["encode"], "module": count, "times_real_time": 5.0}
        for name, label in LABELS.items()
    }
    costs = {"autoencoder": {"encode": count, "decode": count}, "systems": systems, "machine": "a machine"}
    write_json(run / COSTS, costs)
    return run


def _write(path: Path, signal: np.ndarray, *, channels: int) -> None:
    """The right channel, where there is one, at half the level of the left."""
    soundfile.write(str(path), np.stack([signal, signal / 2][:channels], axis=1), RATE)
