"""Makes the tables of a run from scores.jsonl: means and medians with intervals, paired differences, gap closed.

Intervals are 95 % percentile bootstrap intervals over 10,000 seeded resamples. Clips of one track are not independent,
so whole tracks are resampled (cluster bootstrap). All rows use the same resamples, so differences are paired by clip.
A metric is averaged over the clips for which every system has a value, so all rows of a column cover the same clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reencoder_eval.evaluation_folder import MARKDOWN, TABLES, write_json
from reencoder_eval.run_contents import costs_of, finished_scores, latent_scores_of
from reencoder_eval.tables.bootstrap import Interval
from reencoder_eval.tables.columns import GROUPS, Group
from reencoder_eval.tables.cost_table import Costs, cost_table, module_gflops, passes_gflops, times_real_time
from reencoder_eval.tables.summary import Cell, Summary, summarise
from reencoder_eval.tables.text_table import NOTHING, TextTable, markdown, number
from reencoder_pipeline.stores.atomic import write_text


def write_tables(run: Path) -> Summary:
    """Write tables.json and tables.md into a run folder, from its scores and, if measured, its costs.

    EvaluationError if the run has no scores or is not finished.

    Example::

        summary = write_tables(Path("out/eval/bwe"))
        summary.cells["autoencoder"]["stft_d_full"].mean  # Interval(value, low, high)
    """
    summary = summarise(finished_scores(run))
    write_json(run / TABLES, summary.to_dict())
    tables = text_tables(summary, costs_of(run), latent_scores_of(run))
    write_text(run / MARKDOWN, "\n".join(markdown(table) for table in tables))
    return summary


def text_tables(
    summary: Summary, costs: Costs | None = None, latents: Mapping[str, Any] | None = None
) -> list[TextTable]:
    """One table per group of metrics, skipping groups without scores, and paired differences if the reference row was
    run; then correlations, Fréchet distances and costs if measured."""
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
        title += f"; {summary.silent} clips left out because their reference is silent"
    return TextTable(title, tuple(columns), tuple(rows))


def comparison_table(summary: Summary, group: Group) -> TextTable:
    columns = ["system"]
    for column in group.columns:
        detail = f"{column.title.rsplit(' ', 1)[0]} {column.beside_title.rsplit(' ', 1)[-1]}"
        columns += [column.title, *([detail] if column.beside else []), "clips better", "gap closed"]
    rows = []
    for system, comparisons in summary.comparisons.items():
        row = [summary.labels[system]]
        for column in group.columns:
            compared = comparisons.get(column.metric)
            row.append(_with_interval(compared.difference if compared else None, sign="+"))
            if column.detail:
                detail = comparisons.get(column.detail)
                row.append(_with_interval(detail.difference if detail else None, sign="+"))
            closed = compared.gap_closed if compared else None
            row.append(f"{compared.better:.0%}" if compared else NOTHING)
            row.append(f"{closed.value:.0%} [{closed.low:.0%}, {closed.high:.0%}]" if closed else NOTHING)
        rows.append(tuple(row))
    title = f"Paired differences to {summary.labels[summary.reference]!r}, mean [95 %]; below zero is better"
    return TextTable(title, tuple(columns), tuple(rows))


def mean_of(cell: Cell | None) -> float | None:
    return cell.mean.value if cell else None


def correlation_table(summary: Summary) -> TextTable:
    rows = [(label, _with_interval(interval)) for label, interval in summary.correlations.items()]
    title = "Figure 3: log(E left / E right) of output and of reference over clips, Pearson's correlation"
    return TextTable(title, ("system", "r [95 %]"), tuple(rows))


def frechet_table(summary: Summary, latents: Mapping[str, Any]) -> TextTable:
    """One distance per system, over all clips; it has no interval."""
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
