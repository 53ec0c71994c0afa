"""Baseline, a system on raw audio for one task, and `load_baseline`, which also loads baselines of other packages."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reencoder_eval.metrics.flops import FlopCount
from reencoder_pipeline.errors import ConfigError, EvaluationError
from reencoder_pipeline.named_function import call_named


@dataclass(frozen=True)
class Baseline:
    """A system on raw audio.

    `run(audio, sample_rate)` maps a task's input, float32 (1, samples), to its targets, float32 (targets, samples).
    Both are at the full rate; for bwe the input is the low band brought back to it. The output is as long as the input
    and aligned with it: a baseline compensates its own delay. `run` is None for a model without trained weights, which
    has costs but no scores.
    `name` identifies the row in scores.jsonl. `digest` must change with everything that can change the output. `count`
    counts the whole system per second of audio; None means nothing to count.

    Example::

        def copied() -> Baseline:  # reencoder-eval: baselines: [{name: "my_package.copied:copied"}]
            run = lambda audio, sample_rate: np.repeat(audio, 2, axis=0)
            return Baseline("copied", "Mono copied", "mono on both sides", "m2s", digest_of("copied", 1), run)
    """

    name: str
    label: str
    about: str
    task: str
    digest: str
    run: Callable[[np.ndarray, int], np.ndarray] | None
    count: Callable[[], FlopCount] | None = None


_HERE = "reencoder_eval.baselines"
# Without weights: () -> Baseline.
SIGNAL_PROCESSING = {
    "folding": f"{_HERE}.signal_processing:spectral_folding",
    "decorrelation": f"{_HERE}.signal_processing:decorrelation",
}
# Models: (*, weights, device) -> Baseline.
MODELS = {
    "aero": f"{_HERE}.aero.baseline:load_aero",
    "musichifi_bwe": f"{_HERE}.musichifi.baseline:load_musichifi_bwe",
    "musichifi_m2s": f"{_HERE}.musichifi.baseline:load_musichifi_m2s",
}


def load_baseline(
    name: str, *, weights: Path | None = None, task: str, device: str = "cpu", label: str | None = None
) -> Baseline:
    """Load a baseline by the name of ours or by "package.module:function", called with `weights` and `device`.

    A `label` distinguishes its rows from others of the same baseline. ConfigError for an unknown name, for weights that
    the baseline does not take, and for a baseline of another task; EvaluationError if the function fails.

    Example::

        folding = load_baseline("folding", task="bwe")
        estimate = folding.run(low_band, 44_100)  # float32 (1, samples) -> (1, samples)
    """
    if name in SIGNAL_PROCESSING:
        if weights is not None:
            raise ConfigError("this baseline takes no weights", where="baselines", value=name, remedy="leave them out")
        baseline = _shipped(SIGNAL_PROCESSING[name])()
    elif name in MODELS:
        baseline = _shipped(MODELS[name])(weights=weights, device=device)
    elif ":" in name:
        keywords = {"weights": weights, "device": device}
        baseline = call_named(name, keywords=keywords, what="a baseline", error=EvaluationError)
        if not isinstance(baseline, Baseline):
            remedy = "return a reencoder_eval.baselines.baseline.Baseline"
            raise EvaluationError(
                "the function returned no baseline", where=name, value=type(baseline).__name__, remedy=remedy
            )
    else:
        known = [*SIGNAL_PROCESSING, *MODELS]
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}, or package.module:function"
        raise ConfigError("there is no such baseline", where="baselines", value=name, remedy=remedy)
    if baseline.task != task:
        value, remedy = f"{name} is for {baseline.task}, not {task}", "leave it out, or evaluate its task"
        raise ConfigError("this baseline is for another task", where="baselines", value=value, remedy=remedy)
    return replace(baseline, name=f"{baseline.name}:{label}", label=label) if label else baseline


def digest_of(*parts: Any) -> str:
    """sha256 of the parts that a system is made of, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _shipped(name: str) -> Callable[..., Baseline]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
