"""The published results: tables are made of their scores, and both READMEs give the figures of the tables."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from reencoder_eval.evaluation_folder import CHART, MARKDOWN
from reencoder_eval.tables.score_tables import write_tables

ROOT = Path(__file__).parents[2]
RESULTS = sorted(path.parent for path in (ROOT / "results").glob("*/scores.jsonl"))
FIGURE = re.compile(r"\d+\.\d\d")


@pytest.mark.parametrize("run", RESULTS, ids=lambda run: run.name)
def test_tables_are_made_of_the_scores(run: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns(MARKDOWN)))
    write_tables(made)
    assert (made / MARKDOWN).read_text() == (run / MARKDOWN).read_text()
    assert (run / CHART).read_text().startswith("<svg ")


def test_the_readme_has_the_figures_of_the_tables() -> None:
    """Every figure in a row of a table of results/README.md is in the rows of that name in the results' tables."""
    published = [line for run in RESULTS for line in (run / MARKDOWN).read_text().splitlines()]
    checked = 0
    for line in (ROOT / "results/README.md").read_text().splitlines():
        known = " ".join(row for row in published if name_of(row) == name_of(line))
        if line.startswith("| ") and known:
            cells = line.split("|")[2:-2]  # the last column is the paper's
            assert set(FIGURE.findall(" ".join(cells))) <= set(FIGURE.findall(known)), line
            checked += 1
    assert checked >= 10


def test_the_first_page_has_figures_of_the_results() -> None:
    """Every figure with two decimals in the Results section of the root README is in results/README.md."""
    section = (ROOT / "README.md").read_text().partition("## Results\n")[2].partition("\n## ")[0]
    figures = set(FIGURE.findall(section))
    assert len(figures) >= 5
    assert figures <= set(FIGURE.findall((ROOT / "results/README.md").read_text()))


def name_of(row: str) -> str:
    return row.removeprefix("| ").partition(" | ")[0].replace("*", "")
