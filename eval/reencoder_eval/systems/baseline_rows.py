"""The rows of the baselines: on the original audio, and after the autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_eval.clips.read import ClipAudio
from reencoder_eval.systems.names import AFTER
from reencoder_eval.systems.system import BOTH, System, through_autoencoder
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.tasks import Task

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


def baseline_systems(
    task: Task,
    autoencoder: Autoencoder,
    baseline: Baseline,
    *,
    low_rate: int,
    resampler: str,
    device: torch.device | str,
) -> tuple[System, System]:
    """A baseline on the undistorted input, and on what the autoencoder leaves of it (the paper's "VAE + X").

    As in the paper (section 4.1), the autoencoder of bwe transmits the *full* band and the low band is made from what
    arrives: that favours the baseline, whose input is then like what it was trained on.
    """
    run_baseline = baseline.run
    sent = task.targets if task.name == "bwe" else task.inputs

    def after(audio: ClipAudio) -> np.ndarray:
        signals = through_autoencoder(autoencoder, [audio.streams[name] for name in sent], device=device)
        if task.name == "bwe":
            signals = low_band(signals, sample_rate=audio.sample_rate, low_rate=low_rate, resampler=resampler)
        return finish(audio, signals)

    def undistorted(audio: ClipAudio) -> np.ndarray:
        return finish(audio, np.stack([audio.streams[name] for name in task.inputs]))

    def finish(audio: ClipAudio, signals: np.ndarray) -> np.ndarray:
        assert run_baseline is not None, "a row without weights is never run"
        return audio.without_margins(run_baseline(signals, audio.sample_rate))

    digest, trained = digest_of(task.name, baseline.digest), run_baseline is not None
    return (
        System(
            baseline.name,
            baseline.label,
            baseline.about,
            digest,
            undistorted if trained else None,
            count=baseline.count,
        ),
        System(
            f"{AFTER}{baseline.name}",
            f"Autoencoder + {baseline.label}",
            f"{baseline.label} after the autoencoder",
            digest_of(digest, autoencoder.spec.to_dict(), resampler),
            after if trained else None,
            BOTH,
            baseline.count,
        ),
    )
