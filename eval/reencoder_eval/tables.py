"""Tables from scores.jsonl alone: means and medians with intervals, paired differences, the share of the gap closed.

Intervals are 95 % percentile bootstrap intervals, 10,000 resamples, seeded. Clips of one track are not independent, so
whole tracks are resampled (cluster bootstrap), the same resamples for every row: differences are paired by clip.
A metric is averaged over the clips on which every system has a value: the rows of a column speak of the same clips.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reencoder_eval.columns import BALANCE, GROUPS, Column, Group, task_of
from reencoder_eval.cost_table import Costs, cost_table, module_gflops, passes_gflops, times_real_time
from reencoder_eval.run_contents import costs_of, finished_scores, latent_scores_of
from reencoder_eval.run_folder import MARKDOWN, TABLES, write_json
from reencoder_eval.system_names import CEILING_ROW, MODULES, START_ROWS
from reencoder_eval.text_table import NOTHING, TextTable, markdown, number
from reencoder_pipeline.durable import write_text
from reencoder_pipeline.errors import EvaluationError

if TYPE_CHECKING:
    pass

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """One metric of one system over `clips` clips of `tracks` tracks."""

    mean: Interval
    median: Interval
    clips: int
    tracks: int


@dataclass(frozen=True)
class Comparison:
    """One metric of one system against the reference row, clip by clip: below zero is better.

    `better` is the share of clips with a smaller distance. `gap_closed`, of modules alone, is 0 at the reference row
    and 1 at the autoencoder's own reconstruction; None where these do not differ clearly (the interval of the gap
    includes 0) or the autoencoder's is the worse of the two.
    """

    difference: Interval
    better: float
    gap_closed: Interval | None


@dataclass(frozen=True)
class Summary:
    """Everything that the tables show, by system and then by metric, in the order of the rows.

    `correlations` by label: Pearson's, of the balance of left and right in output and reference (figure 3)."""

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
    """Rows of scores.jsonl -> Summary; EvaluationError without rows. Without the reference row nothing is compared.

    `against` is the label of another reference row than the input after the autoencoder; EvaluationError where there is
    none of that name. Rows that have a balance and no other score belong to figure 3 alone.
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
            mean, middle = _mean(scores, weights), _median(scores, weights)
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
    remedy = f"one of: {'; '.join(labels.values())}"
    raise EvaluationError("no row of that name to compare with", where="--against", value=label, remedy=remedy)


def _correlations(rows: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Interval]:
    """By label, of the rows of modules with a condition and of what they are compared with; on clips that have both."""
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
        found[label] = _interval(correlations(x, y, once)[0], correlations(x, y, weights))
    return found


def correlations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's of (clips,) and (clips,), each clip as often as (resamples, clips) says -> (resamples,); 0 where
    either does not vary."""
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    covariance = weights @ (x * y) / total - mean_x * mean_y
    variances = [weights @ (z * z) / total - mean * mean for z, mean in ((x, mean_x), (y, mean_y))]
    scale = np.sqrt(np.maximum(variances[0], 0) * np.maximum(variances[1], 0))
    still = scale < 1e-9  # rounding, of squares that are of the order of 1
    return np.where(still, 0.0, covariance / np.where(still, 1.0, scale)).clip(-1, 1)


def resample_weights(tracks: Sequence[str], *, seed: int) -> np.ndarray:
    """(RESAMPLES, clips): how often each clip occurs in each resample of whole tracks."""
    if len(set(tracks)) == 1:  # one track says nothing about others: the interval is that of its clips
        tracks = [str(number) for number in range(len(tracks))]
    names, track_of_clip = np.unique(np.asarray(tracks), return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return counts[:, track_of_clip].astype(np.float64)


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
        bounds = _mean(gap, weights)
        if bounds.high < 0:
            ratios = (weights @ difference) / (weights @ gap)
            gap_closed = _interval(difference.mean() / gap.mean(), ratios)
    return Comparison(_mean(difference, weights), float((difference < 0).mean()), gap_closed)


def _mean(scores: np.ndarray, weights: np.ndarray) -> Interval:
    return _interval(scores.mean(), weights @ scores / weights.sum(axis=1))


def _median(scores: np.ndarray, weights: np.ndarray) -> Interval:
    order = np.argsort(scores)
    reached = np.cumsum(weights[:, order], axis=1)  # (resamples, clips): clips drawn up to and including this one
    half = reached[:, -1:] / 2
    below = scores[order][(reached >= half).argmax(axis=1)]
    above = scores[order][(reached > half).argmax(axis=1)]
    return _interval(np.median(scores), (below + above) / 2)


def _interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def write_tables(run: Path) -> Summary:
    """tables.json and tables.md of a run folder, from its scores (and its costs, where there are any)."""
    summary = summarise(finished_scores(run))
    write_json(run / TABLES, summary.to_dict())
    tables = text_tables(summary, costs_of(run), latent_scores_of(run))
    write_text(run / MARKDOWN, "\n".join(markdown(table) for table in tables))
    return summary


def text_tables(
    summary: Summary, costs: Costs | None = None, latents: Mapping[str, Any] | None = None
) -> list[TextTable]:
    """Scores and, where there is a row to compare with, paired differences; none of what nobody has; then Fréchet
    distances and costs, where they are known."""
    tables = []
    for place, group in enumerate(GROUPS[summary.task]):
        if any(column.metric in cells for column in group.columns for cells in summary.cells.values()):
            tables.append(scores_table(summary, group, costs, with_costs=place == 0))
            if summary.comparisons and group.compared:
                tables.append(comparison_table(summary, group))
    if summary.correlations:
        tables.append(correlation_table(summary))
    if latents:
        tables.append(frechet_table(summary, latents))
    return [*tables, cost_table(costs)] if costs else tables


def scores_table(summary: Summary, group: Group, costs: Costs | None, *, with_costs: bool) -> TextTable:
    columns = ["system", *(["GFLOPs/s", "+ autoencoder", "x real time"] if with_costs else [])]
    for column in group.columns:
        columns += [f"{column.title}, mean [95 %]", *([column.beside_title] if column.beside else []), "median"]
    rows = []
    for system, label in summary.labels.items():
        row, cells = [label], summary.cells[system]
        if with_costs:
            speed = times_real_time(system, costs)
            row += [number(of(system, costs)) for of in (module_gflops, passes_gflops)]
            row.append(f"{speed:.3g}" if speed else NOTHING)
        for column in group.columns:
            cell = cells.get(column.metric)
            row.append(_with_interval(cell.mean if cell else None))
            if column.beside:
                row.append(" / ".join(number(mean_of(cells.get(metric))) for metric in column.beside))
            row.append(number(cell.median.value if cell else None))
        rows.append(tuple(row))
    title = f"{summary.clips} clips of {summary.tracks} tracks; {group.title}"
    if summary.silent:
        title += f"; {summary.silent} clips left out, their reference is silent"
    return TextTable(title, tuple(columns), tuple(rows))


def comparison_table(summary: Summary, group: Group) -> TextTable:
    columns = ["system"]
    for column in group.columns:
        columns += [column.title, *([_detail_title(column)] if column.beside else []), "clips better", "gap closed"]
    rows = []
    for system, comparisons in summary.comparisons.items():
        row = [summary.labels[system]]
        for column in group.columns:
            compared = comparisons.get(column.metric)
            row.append(_with_interval(compared.difference if compared else None, sign="+"))
            if column.detail:
                detail = comparisons.get(column.detail)
                row.append(_with_interval(detail.difference if detail else None, sign="+"))
            row += [
                f"{compared.better:.0%}" if compared else NOTHING,
                _percent(compared.gap_closed if compared else None),
            ]
        rows.append(tuple(row))
    title = f"Paired differences to {summary.labels[summary.reference]!r}, mean [95 %]; below zero is better"
    return TextTable(title, tuple(columns), tuple(rows))


def _detail_title(column: Column) -> str:
    return f"{column.title.rsplit(' ', 1)[0]} {column.beside_title.rsplit(' ', 1)[-1]}"


def mean_of(cell: Cell | None) -> float | None:
    return cell.mean.value if cell else None


def correlation_table(summary: Summary) -> TextTable:
    rows = [(label, _with_interval(interval)) for label, interval in summary.correlations.items()]
    title = "Figure 3: log(E left / E right) of output and of reference over clips, Pearson's correlation"
    return TextTable(title, ("system", "r [95 %]"), tuple(rows))


def frechet_table(summary: Summary, latents: Mapping[str, Any]) -> TextTable:
    """Of whole sets of clips: there is one value a system, and no interval."""
    title = (
        f"Fréchet distance in the autoencoder's own latent space, {latents['frames']} frames of {latents['clips']} "
        "clips; smaller is better"
    )
    distances = latents["frechet"]
    rows = [(label, number(distances[name])) for name, label in summary.labels.items() if name in distances]
    return TextTable(title, ("system", "Fréchet distance"), tuple(rows))


def _with_interval(interval: Interval | None, *, sign: str = "") -> str:
    if interval is None:
        return NOTHING
    return f"{interval.value:{sign}z.2f} [{interval.low:{sign}z.2f}, {interval.high:{sign}z.2f}]"


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return NOTHING
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
