"""All metrics of one estimate, by task; in this process or in a pool of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
import torch

from reencoder_eval.metrics.hearing_models import visqol_mos, zimtohrli_mos
from reencoder_eval.metrics.log_spectral import log_spectral_distance
from reencoder_eval.metrics.spectral import EDGE_HZ, score_channels
from reencoder_eval.metrics.stereo import balance, score_stereo
from reencoder_pipeline.errors import ReencoderError

Scores = dict[str, float | None]
Submit = Callable[..., Future[Scores]]  # the arguments of score_clip -> its scores, to come
Quality = Literal["zimtohrli", "visqol"]

SCORING_VERSION = 2  # raise it when any score changes: stored ones of another version are computed again


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
    """bwe: STFT-D, mel-D, SI-SDR and log-spectral distance, also below and above `edge_hz`; m2s: the first two by
    channel, and stereo cues.

    Both (targets, samples). `scored` is System's: "balance" wants that alone. `quality` names models of hearing.
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
    """`submit` of a pool of processes with one thread each, faster than one process with many; 0: score right here."""
    if workers == 0:
        yield _at_once
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        yield partial(pool.submit, score_clip)


def _one_thread() -> None:
    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL's
    torch.set_num_threads(1)


def _at_once(*arguments: Any, **settings: Any) -> Future[Scores]:
    scores: Future[Scores] = Future()
    try:
        scores.set_result(score_clip(*arguments, **settings))
    except ReencoderError as error:
        scores.set_exception(error)
    return scores
