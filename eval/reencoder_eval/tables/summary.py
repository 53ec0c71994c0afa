"""Summarises the rows of scores.jsonl: means, intervals, and paired differences by system."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reencoder_eval.systems.names import CEILING_ROW, MODULES, START_ROWS
from reencoder_eval.tables.bootstrap import (
    Interval,
    bootstrap_interval,
    correlations,
    resample_weights,
    weighted_mean,
    weighted_median,
)
from reencoder_eval.tables.columns import BALANCE, task_of
from reencoder_pipeline.errors import EvaluationError


@dataclass(frozen=True)
class Cell:
    """One metric of one system over `clips` clips of `tracks` tracks."""

    mean: Interval
    median: Interval
    clips: int
    tracks: int


@dataclass(frozen=True)
class Comparison:
    """One metric of one system minus that of the reference row, paired by clip; below zero is better.

    `better` is the share of clips with a smaller distance. `gap_closed` exists for modules: 0 at the reference row and
    1 at the autoencoder's reconstruction. It is None unless the reconstruction is clearly better than the reference
    row (the interval of the gap lies below 0).
    """

    difference: Interval
    better: float
    gap_closed: Interval | None


@dataclass(frozen=True)
class Summary:
    """Everything that the tables show, by system and then by metric, in the order of the rows.

    `correlations` holds Pearson's correlation of the left-right balances of output and reference, by label (figure 3).
    """

    task: str
    labels: dict[str, str]
    cells: dict[str, dict[str, Cell]]
    comparisons: dict[str, dict[str, Comparison]]
    correlations: dict[str, Interval]
    reference: str
    clips: int
    tracks: int
    silent: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(rows: Sequence[Mapping[str, Any]], *, against: str | None = None, seed: int = 0) -> Summary:
    """Rows of scores.jsonl -> Summary.

    Systems are compared with the input after the autoencoder, or with the row labelled `against`; without that row
    there are no comparisons. Rows with no score except a balance are used only for figure 3. EvaluationError without
    rows, or if `against` is not a label.

    Example::

        summary = summarise(finished_scores(Path("out/eval/bwe")), against="Input (sinc)")
    """
    correlations = _correlations(rows, seed=seed)
    rows = [row for row in rows if set(row["scores"]) - set(BALANCE)]
    if not rows:
        raise EvaluationError("there are no scores to summarise", remedy="run the evaluation first")
    systems = list(dict.fromkeys(row["system"] for row in rows))
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    tracks = {row["clip"]: row["track"] for row in rows}
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["scores"]))
    task = task_of(metrics)
    labels = {row["system"]: row["label"] for row in rows}
    reference = START_ROWS[task] if against is None else _system(against, labels)
    values = _values(rows, systems=systems, clips=clips, metrics=metrics)  # (systems, clips, metrics), NaN: no value

    cells: dict[str, dict[str, Cell]] = {system: {} for system in systems}
    comparisons: dict[str, dict[str, Comparison]] = {system: {} for system in systems if system != reference}
    for m, metric in enumerate(metrics):
        usable = np.atleast_1d(~np.isnan(values[:, :, m]).any(axis=0))
        if not usable.any():
            continue
        kept = [tracks[clip] for clip, use in zip(clips, usable, strict=True) if use]
        weights = resample_weights(kept, seed=seed)
        column = dict(zip(systems, values[:, usable, m], strict=True))
        for system, scores in column.items():
            mean, middle = weighted_mean(scores, weights), weighted_median(scores, weights)
            cells[system][metric] = Cell(mean, middle, clips=len(scores), tracks=len(set(kept)))
        if reference in column:
            for system, by_metric in comparisons.items():
                by_metric[metric] = _compare(column, system, reference=reference, weights=weights)
    return Summary(
        task=task,
        labels=labels,
        cells=cells,
        comparisons=comparisons if reference in systems else {},
        correlations=correlations,
        reference=reference,
        clips=len(clips),
        tracks=len(set(tracks.values())),
        silent=sum(bool(np.isnan(values[:, c]).all()) for c in range(len(clips))),
    )


def _system(label: str, labels: Mapping[str, str]) -> str:
    for system, its_label in labels.items():
        if its_label == label:
            return system
    remedy = f"choose from: {'; '.join(labels.values())}"
    raise EvaluationError("there is no row of that name", where="--against", value=label, remedy=remedy)


def _correlations(rows: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Interval]:
    """Correlations by label, over the clips with a balance of both output and reference."""
    points: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for row in rows:
        output, reference = (row["scores"].get(name) for name in BALANCE)
        if output is not None and reference is not None:
            points[row["label"]].append((row["track"], output, reference))
    found = {}
    for label, triples in points.items():
        tracks, *pair = zip(*triples, strict=True)
        x, y = np.array(pair)
        once, weights = np.ones((1, len(x))), resample_weights(tracks, seed=seed)
        found[label] = bootstrap_interval(correlations(x, y, once)[0], correlations(x, y, weights))
    return found


def _values(
    rows: Iterable[Mapping[str, Any]], *, systems: list[str], clips: list[str], metrics: list[str]
) -> np.ndarray:
    values = np.full((len(systems), len(clips), len(metrics)), np.nan)
    for row in rows:
        scores = [row["scores"].get(metric) for metric in metrics]
        values[systems.index(row["system"]), clips.index(row["clip"])] = [np.nan if s is None else s for s in scores]
    return values


def _compare(column: Mapping[str, np.ndarray], system: str, *, reference: str, weights: np.ndarray) -> Comparison:
    difference = column[system] - column[reference]
    gap_closed = None
    if CEILING_ROW in column and reference in START_ROWS.values() and system.startswith(MODULES):
        gap = column[CEILING_ROW] - column[reference]
        bounds = weighted_mean(gap, weights)
        if bounds.high < 0:
            ratios = (weights @ difference) / (weights @ gap)
            gap_closed = bootstrap_interval(difference.mean() / gap.mean(), ratios)
    return Comparison(weighted_mean(difference, weights), float((difference < 0).mean()), gap_closed)
