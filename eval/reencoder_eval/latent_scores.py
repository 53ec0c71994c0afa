"""Stores statistics of each clip's latents, and computes the scores in latent space from them when a run is complete.

Latent L1 is in units of each channel's standard deviation over all references of the run, and the Fréchet distance
compares whole sets of clips. Both need all clips, so each clip's statistics wait in a small file. An interrupted run
finds them again by the key of their row.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from reencoder_eval.evaluation_folder import LATENT_SCORES, LATENTS, write_json
from reencoder_eval.metrics.latent import FrechetStatistics, frechet_distance
from reencoder_eval.metrics.latent_statistics import SMALLEST_STD
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.stores.atomic import write_whole


@dataclass(frozen=True)
class LatentRecord:
    """Statistics of an estimate's latents, and the mean L1 of each channel to the reference's latents, (C,)."""

    statistics: FrechetStatistics
    distance: np.ndarray

    @classmethod
    def of(cls, estimate: np.ndarray, reference: np.ndarray) -> LatentRecord:
        """Both (targets, C, T). The record of a reference compares it with itself."""
        return cls(FrechetStatistics.of(estimate), np.abs(estimate - reference).mean(axis=(0, 2), dtype=np.float64))


def record_path(run: Path, key: str) -> Path:
    return run / LATENTS / f"{key}.npz"


def write_latent_record(path: Path, record: LatentRecord) -> None:
    """Write a record. EvaluationError if a value of the autoencoder is not finite."""
    statistics, content = record.statistics, io.BytesIO()
    if not _finite(record):
        raise EvaluationError(
            "the latents of the output hold values that are not finite numbers", remedy="check the system's output"
        )
    np.savez(
        content, count=statistics.count, mean=statistics.mean, scatter=statistics.scatter, distance=record.distance
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getbuffer())


def read_latent_record(path: Path) -> LatentRecord:
    try:
        with zipfile.ZipFile(path) as archive:  # ours is uncompressed, so it unpacks to no more than its size
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as values:
            statistics = FrechetStatistics(int(values["count"]), values["mean"], values["scatter"])
            record = LatentRecord(statistics, values["distance"])
        channels = len(statistics.mean)
        shapes = statistics.mean.shape, statistics.scatter.shape, record.distance.shape
        if shapes != ((channels,), (channels, channels), (channels,)) or not _finite(record) or statistics.count < 1:
            raise ValueError(f"shapes {shapes}, {statistics.count} frames")
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        remedy = "remove the file and evaluate again"
        raise EvaluationError("the statistics of latents are damaged", where=path, value=error, remedy=remedy) from None
    return record


def _finite(record: LatentRecord) -> bool:
    statistics = record.statistics
    return all(np.isfinite(one).all() for one in (statistics.mean, statistics.scatter, record.distance))


def add_latent_scores(run: Path, rows: Sequence[dict[str, Any]], references: Mapping[str, str]) -> None:
    """Add `latent_l1` to the scores of every row with a record, and write the Fréchet distances to latents.json.

    `references` maps each clip to the key of its reference's record. With too few frames for a covariance there are no
    Fréchet distances. Clips with a silent reference have no scores here either.
    """
    records = {clip: read_latent_record(record_path(run, key)).statistics for clip, key in references.items()}
    if not records:
        return
    whole = reduce(add, records.values())
    std = np.maximum(np.sqrt(np.diag(whole.scatter) / whole.count), SMALLEST_STD)
    sums: dict[str, list[str]] = {}
    for row in rows:
        path = record_path(run, row["key"])
        if path.is_file() and any(score is not None for score in row["scores"].values()):
            row["scores"]["latent_l1"] = float((read_latent_record(path).distance / std).mean())
            sums.setdefault(row["system"], []).append(row["clip"])
    paths = {(row["system"], row["clip"]): record_path(run, row["key"]) for row in rows}
    distances: dict[str, float | None] = {}
    for system, clips in sums.items():
        estimates = reduce(add, (read_latent_record(paths[system, clip]).statistics for clip in clips))
        try:
            distances[system] = frechet_distance(estimates, reduce(add, (records[clip] for clip in clips)), std=std)
        except EvaluationError:
            distances[system] = None
    write_json(run / LATENT_SCORES, {"frechet": distances, "frames": whole.count, "clips": len(records)})
