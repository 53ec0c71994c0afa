"""Makes the card of a trained module with its scores from evaluations, next to the rows without a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reencoder_eval.run_contents import costs_of, description_of, finished_scores
from reencoder_eval.systems.names import CEILING_ROW, INPUT_ROWS, LAMBDA, MODULES, START_ROWS
from reencoder_eval.tables.score_tables import correlation_table, text_tables
from reencoder_eval.tables.summary import Summary, summarise
from reencoder_eval.tables.text_table import markdown
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.plain_text import markdown_text
from reencoder_trainer.release.find_module import find_module
from reencoder_trainer.release.module_card import render_card
from reencoder_trainer.trained_module import load_module


def card_with_results(
    module: str | Path, *, row: str, runs: Sequence[Path], name: str | None, licence: str | None
) -> str:
    """`row` is the label of the module in the tables of `runs`. EvaluationError if a run has no such row."""
    results = "\n".join(results_of(run, row=row) for run in runs)
    return render_card(load_module(find_module(module)), name=name, licence=licence, results=results)


def results_of(run: Path, *, row: str) -> str:
    """Markdown tables of distances of module, input and autoencoder; for m2s also the correlations of figure 3."""
    rows, about = finished_scores(run), description_of(run)
    chosen = only(summarise(rows), row=row, where=run)
    tables = [table for table in text_tables(chosen, costs_of(run)) if len(table.rows) > 1][:2]
    labels = {one["label"] for one in rows if module_of(one["system"]) == row}
    if figure_3 := {label: r for label, r in chosen.correlations.items() if label in labels}:
        tables.append(correlation_table(replace(chosen, correlations=figure_3)))
    heading = markdown_text(f"{about['title']}: {run.resolve().name}, split {about['split'] or 'none'}")
    return "\n".join([f"### {heading}", "", *(markdown(table) for table in tables)])


def only(summary: Summary, *, row: str, where: Path) -> Summary:
    """The rows without a module and those of one module, which for m2s are several."""
    modules = {name: module for name in summary.labels if (module := module_of(name)) is not None}
    ours = {name for name, label in modules.items() if label == row}
    if not ours:
        there = ", ".join(dict.fromkeys(modules.values())) or "none"
        remedy = f"give the label of a module in this run: {there}"
        raise EvaluationError("no module of this label was evaluated", where=where, value=row, remedy=remedy)
    plain = {CEILING_ROW, INPUT_ROWS[summary.task], START_ROWS[summary.task]}
    kept = [name for name in summary.labels if name in plain | ours]
    return replace(
        summary,
        labels={name: summary.labels[name] for name in kept},
        cells={name: summary.cells[name] for name in kept},
        comparisons={name: summary.comparisons[name] for name in kept if name in summary.comparisons},
    )


def module_of(system: str) -> str | None:
    """The label of the row's module, or None if the row has no module."""
    return system.removeprefix(MODULES).partition(LAMBDA)[0] if system.startswith(MODULES) else None
