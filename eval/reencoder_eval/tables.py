"""Tables from scores.jsonl alone: means and medians with intervals, paired differences, the share of the gap closed.

Intervals are 95 % percentile bootstrap intervals, 10,000 resamples, seeded. Clips of one track are not independent, so
whole tracks are resampled (cluster bootstrap), the same resamples for every row: differences are paired by clip.
A metric is averaged over the clips on which every system has a value: the rows of a column speak of the same clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reencoder_eval.run_folder import COSTS, MARKDOWN, SCORES, TABLES, read_json, read_rows, write_json
from reencoder_pipeline.durable import write_text
from reencoder_pipeline.errors import EvaluationError

if TYPE_CHECKING:
    from rich.table import Table

RESAMPLES = 10_000
REFERENCE_ROW = "autoencoder_low_band"  # what the row "ours" starts from
CEILING_ROW = "autoencoder"  # what it could reach
MODULES = "ours:"  # other rows do not start from the reference row: they close no gap
COLUMNS = {"STFT-D": "stft_d", "mel-D": "mel_d"}
BANDS = ("full", "low", "high")
NOTHING = "-"

# Table 1 of the paper: its own autoencoder, music and modules. GFLOPs; STFT-D full, low, high; mel-D full, low, high.
PAPER_TABLE_1 = (
    ("VAE rec.", 51, (1.13, 0.58, 1.38), (0.57, 0.46, 0.76)),
    ("Aero", 85, (0.94, 0.07, 1.70), (0.24, 0.03, 0.76)),
    ("MusicHiFi-BWE", 111, (0.99, 0.09, 1.74), (0.24, 0.02, 0.76)),
    ("VAE + Aero", 85, (1.43, 0.58, 1.73), (0.67, 0.46, 0.94)),
    ("VAE + MusicHiFi-BWE", 111, (1.47, 0.58, 1.78), (0.68, 0.46, 0.98)),
    ("Ours (M) with L1", 1.6, (1.41, 0.58, 1.78), (0.69, 0.48, 1.03)),
    ("Ours (M) with L1, mel", 1.6, (1.35, 0.55, 1.73), (0.60, 0.42, 0.92)),
    ("Ours (M) with L1, Discr.", 1.6, (1.38, 0.58, 1.72), (0.67, 0.48, 0.98)),
    ("Ours (S) with L1, Discr.", 0.4, (1.38, 0.58, 1.71), (0.67, 0.48, 0.97)),
)


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
    includes 0).
    """

    difference: Interval
    better: float
    gap_closed: Interval | None


@dataclass(frozen=True)
class Summary:
    """Everything that the tables show, by system and then by metric, in the order of the rows."""

    labels: dict[str, str]
    cells: dict[str, dict[str, Cell]]
    comparisons: dict[str, dict[str, Comparison]]
    reference: str
    clips: int
    tracks: int
    silent: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(rows: Sequence[Mapping[str, Any]], *, reference: str = REFERENCE_ROW, seed: int = 0) -> Summary:
    """Rows of scores.jsonl -> Summary; EvaluationError without rows. Without the reference row nothing is compared."""
    if not rows:
        raise EvaluationError("there are no scores to summarise", remedy="run the evaluation first")
    systems = list(dict.fromkeys(row["system"] for row in rows))
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    tracks = {row["clip"]: row["track"] for row in rows}
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["scores"]))
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
        labels={row["system"]: row["label"] for row in rows},
        cells=cells,
        comparisons=comparisons if reference in systems else {},
        reference=reference,
        clips=len(clips),
        tracks=len(set(tracks.values())),
        silent=sum(bool(np.isnan(values[:, c]).all()) for c in range(len(clips))),
    )


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
    if CEILING_ROW in column and system.startswith(MODULES):
        gap = column[CEILING_ROW] - column[reference]
        bounds = _mean(gap, weights)
        if bounds.low > 0 or bounds.high < 0:
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
    summary, costs = summarise(read_rows(run / SCORES)), read_json(run / COSTS)
    write_json(run / TABLES, summary.to_dict())
    write_text(run / MARKDOWN, markdown(summary, costs))
    return summary


@dataclass(frozen=True)
class TextTable:
    """A table as text, for whatever shows it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text_tables(summary: Summary, costs: Mapping[str, Any] | None) -> list[TextTable]:
    """The table of scores and, where there is a reference row, the table of paired differences."""
    tables = [scores_table(summary, costs)]
    if summary.comparisons:
        tables.append(comparison_table(summary))
    return tables


def scores_table(summary: Summary, costs: Mapping[str, Any] | None) -> TextTable:
    columns = ["system", "GFLOPs/s", "+ autoencoder", "x real time"]
    for name in COLUMNS:
        columns += [f"{name}, mean [95 %]", "low / high", "median"]
    rows = []
    for system, label in summary.labels.items():
        row = [label, *cost_texts(system, costs)]
        for metric in COLUMNS.values():
            full, low, high = (summary.cells[system].get(f"{metric}_{band}") for band in BANDS)
            row += [
                _with_interval(full.mean if full else None),
                " / ".join(number(cell.mean.value if cell else None) for cell in (low, high)),
                number(full.median.value if full else None),
            ]
        rows.append(tuple(row))
    title = f"{summary.clips} clips of {summary.tracks} tracks; distances, smaller is better"
    if summary.silent:
        title += f"; {summary.silent} clips left out, their reference is silent"
    return TextTable(title, tuple(columns), tuple(rows))


def comparison_table(summary: Summary) -> TextTable:
    columns = ["system"]
    for name in COLUMNS:
        columns += [f"{name} full", f"{name} high", "clips better", "gap closed"]
    rows = []
    for system, comparisons in summary.comparisons.items():
        row = [summary.labels[system]]
        for metric in COLUMNS.values():
            full, high = comparisons.get(f"{metric}_full"), comparisons.get(f"{metric}_high")
            row += [
                _with_interval(full.difference if full else None, sign="+"),
                _with_interval(high.difference if high else None, sign="+"),
                f"{full.better:.0%}" if full else NOTHING,
                _percent(full.gap_closed if full else None),
            ]
        rows.append(tuple(row))
    title = f"Paired differences to {summary.labels[summary.reference]!r}, mean [95 %]; below zero is better"
    return TextTable(title, tuple(columns), tuple(rows))


def cost_texts(system: str, costs: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """GFLOPs per second of the system alone, those of the autoencoder passes around it, and its speed."""
    if costs is None or system not in costs["systems"]:
        return NOTHING, NOTHING, NOTHING
    cost = costs["systems"][system]
    module = (cost["module"] or {}).get("gflops")
    passes = [costs["autoencoder"][stage].get("gflops") for stage in cost["stages"]]
    return (
        number(module),
        number(sum(passes) if passes and None not in passes else None),
        f"{cost['times_real_time']:.3g}" if cost["times_real_time"] else NOTHING,
    )


def markdown(summary: Summary, costs: Mapping[str, Any] | None) -> str:
    parts = []
    for table in text_tables(summary, costs):
        lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts.append(f"{table.title}\n\n{body}\n")
    return "\n".join(parts)


def terminal(table: TextTable) -> Table:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=table.title, title_justify="left")
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))  # Text: "[1.30, 1.52]" is not markup
    return drawn


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _with_interval(interval: Interval | None, *, sign: str = "") -> str:
    if interval is None:
        return NOTHING
    return f"{interval.value:{sign}z.2f} [{interval.low:{sign}z.2f}, {interval.high:{sign}z.2f}]"


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return NOTHING
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
