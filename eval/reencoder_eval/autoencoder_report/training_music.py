"""Describes the music that an autoencoder was trained on: packages, hours, licences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.safe_text import parse_json, read_text

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Package:
    """A collection that the training music came from."""

    name: str
    tracks: int
    hours: float
    licences: str


@dataclass(frozen=True)
class Music:
    """The tracks of a manifest that a training uses."""

    manifest: str
    tracks: int
    hours: float
    packages: tuple[Package, ...]


def read_music(manifest: Path) -> Music:
    """The train split of a manifest, by package (or by the first folder of the track's id)."""
    packages: dict[str, list[Mapping[str, Any]]] = {}
    for count, line in enumerate(read_text(manifest, kind=EvaluationError, what="manifest").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{manifest}:{count}"
        row = parse_json(line, kind=EvaluationError, where=where, what="line")
        if not isinstance(row, dict):
            remedy = "give the manifest of the training music"
            raise EvaluationError("the line is not a JSON object", where=where, value=type(row).__name__, remedy=remedy)
        if row.get("split", "train") == "train":
            package = row.get("package") or str(row.get("id", row.get("path", ""))).partition("/")[0]
            packages.setdefault(str(package), []).append(row)
    rows = tuple(
        Package(package, len(tracks), sum(map(_hours, tracks)), _licences(tracks))
        for package, tracks in sorted(packages.items())
    )
    return Music(manifest.name, sum(row.tracks for row in rows), sum(row.hours for row in rows), rows)


def _hours(row: Mapping[str, Any]) -> float:
    seconds = row.get("seconds", row.get("duration"))
    counts = row.get("num_samples"), row.get("sample_rate")
    if seconds is None and all(isinstance(count, int) and count > 0 for count in counts):
        seconds = row["num_samples"] / row["sample_rate"]
    return seconds / 3600 if isinstance(seconds, int | float) and math.isfinite(seconds) else 0.0


def _licences(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(str(row.get("licence") or row.get("license") or NOT_RECORDED) for row in rows)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{licence} ({count})" for licence, count in counts.most_common())
