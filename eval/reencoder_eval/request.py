"""What an evaluation compares, on which clips, and where it writes: the one argument of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reencoder_eval.baselines.external import ExternalProgram
from reencoder_eval.metrics.score import Quality


@dataclass(frozen=True)
class EvaluationRequest:
    """`modules` are pairs of a label and what `find_module` finds. `baselines` are a name, a weights file (None: it
    has none, or it is only counted) and a label (None: its own). `split` None takes every track; the shares are for
    tracks that have no split. `resampler` None makes the low band as for the training of the modules.

    Example::

        request = EvaluationRequest(source=Path("music"), out=Path("out/eval/bwe"), modules=(("S", Path("out/run")),))
        evaluation = evaluate(request)
    """

    source: Path
    split: str | None = "test"
    valid_share: float = 0.05
    test_share: float = 0.10
    resampler: str | None = None
    num_clips: int = 48
    clip_seconds: float = 10.0
    seed: int = 0
    listening_clips: int = 6
    device: str = "cpu"
    workers: int = 2
    out: Path = Path("out/eval")
    autoencoder: str = "house"
    task: str = "bwe"
    modules: tuple[tuple[str, Path], ...] = ()
    baselines: tuple[tuple[str, Path | None, str | None], ...] = ()
    external: tuple[ExternalProgram, ...] = ()
    quality: tuple[Quality, ...] = ()
