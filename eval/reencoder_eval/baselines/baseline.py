"""Baseline, a system on raw audio for one task, and `load_baseline`: the second plugin door."""

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
    """`run(audio, sample_rate)` maps a task's input, float32 (1, samples), to its targets, float32 (targets, samples).

    Input and output lie at the same rate, the full one; for bwe the input is the low band brought back to it. The
    output is as long as the input and in step with it: a baseline compensates its own delay. `name` identifies the row
    in scores.jsonl, `digest` changes with whatever could change the output. `run` is None when a model has no trained
    weights: it has a cost and no scores. `count` counts the whole system, per second of audio; None: nothing to count.
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
    """`name` is one of those above or "package.module:function", which is called with `weights` and `device`.

    With a `label` its rows are told apart from others of the same baseline. ConfigError for a name nobody knows, for
    weights where none are taken, and for a baseline of another task.
    """
    if name in SIGNAL_PROCESSING:
        if weights is not None:
            raise ConfigError("this baseline has no weights", where="baselines", value=name, remedy="leave them out")
        baseline = _shipped(SIGNAL_PROCESSING[name])()
    elif name in MODELS:
        baseline = _shipped(MODELS[name])(weights=weights, device=device)
    elif ":" in name:
        keywords = {"weights": weights, "device": device}
        baseline = call_named(name, keywords=keywords, what="a baseline", error=EvaluationError)
        if not isinstance(baseline, Baseline):
            remedy = "give a reencoder_eval.baselines.baseline.Baseline"
            raise EvaluationError("is no baseline", where=name, value=type(baseline).__name__, remedy=remedy)
    else:
        known = [*SIGNAL_PROCESSING, *MODELS]
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"one of: {', '.join(known)}; or package.module:function"
        raise ConfigError("unknown baseline", where="baselines", value=name, remedy=remedy)
    if baseline.task != task:
        raise ConfigError(
            "this baseline is for another task", where="baselines", value=f"{name} is for {baseline.task}, not {task}"
        )
    return replace(baseline, name=f"{baseline.name}:{label}", label=label) if label else baseline


def digest_of(*parts: Any) -> str:
    """Of what a system is made of; anything JSON takes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _shipped(name: str) -> Callable[..., Baseline]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
