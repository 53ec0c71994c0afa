"""Computes all metrics of one estimate, in this process or in a pool of processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from reencoder_eval.metrics.hearing_models import visqol_mos, zimtohrli_mos
from reencoder_eval.metrics.log_spectral import log_spectral_distance
from reencoder_eval.metrics.spectral import EDGE_HZ, score_channels
from reencoder_eval.metrics.stereo import balance, score_stereo
from reencoder_pipeline.errors import ReencoderError
from reencoder_pipeline.process_pool import spawned_pool

Scores = dict[str, float | None]
Submit = Callable[..., Future[Scores]]  # takes the arguments of score_clip
Quality = Literal["zimtohrli", "visqol"]

SCORING_VERSION = 2  # raise it if any score changes: stored scores of another version are computed again


def score_clip(
    estimate: np.ndarray,
    reference: np.ndarray,
    sample_rate: int,
    *,
    task: str,
    scored: str = "all",
    quality: Sequence[Quality] = (),
    edge_hz: float = EDGE_HZ,
) -> Scores:
    """All scores of one clip, both (targets, samples).

    bwe: STFT-D, mel-D and log-spectral distance, also below and above `edge_hz`, and SI-SDR. m2s: STFT-D and mel-D of
    left, right, mid and side, and stereo cues. `scored` is System's: "balance" asks for the balance alone. `quality`
    names models of hearing.

    Example::

        score_clip(estimate, reference, 44_100, task="bwe")["stft_d_full"]  # 0.0 if they are equal
    """
    if scored == "balance":
        return {"balance": balance(estimate), "balance_reference": balance(reference)}
    if task == "m2s":
        scores = score_stereo(estimate, reference, sample_rate=sample_rate)
    else:
        scores = score_channels(estimate, reference, sample_rate, edge_hz=edge_hz)
        scores |= log_spectral_distance(estimate[0], reference[0], sample_rate=sample_rate, edge_hz=edge_hz)
    measures = {"zimtohrli": zimtohrli_mos, "visqol": visqol_mos}
    return scores | {name: measures[name](estimate, reference, sample_rate=sample_rate) for name in quality}


@contextmanager
def scoring_processes(workers: int) -> Iterator[Submit]:
    """`submit` of a pool of processes with one thread each, faster than one process with many; 0: no pool."""
    if workers == 0:
        yield _score_here
        return
    with spawned_pool(workers, _one_thread) as pool:
        yield partial(pool.submit, score_clip)


def _one_thread() -> None:
    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL's
    torch.set_num_threads(1)


def _score_here(*arguments: Any, **settings: Any) -> Future[Scores]:
    scores: Future[Scores] = Future()
    try:
        scores.set_result(score_clip(*arguments, **settings))
    except ReencoderError as error:
        scores.set_exception(error)
    return scores
