"""Tables of text cells, as Markdown and for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reencoder_pipeline.plain_text import markdown_cell, printable

if TYPE_CHECKING:
    from rich.table import Table

NOTHING = "-"


@dataclass(frozen=True)
class TextTable:
    """A title, column names, and rows of text cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def markdown(table: TextTable) -> str:
    """The table in Markdown; special characters in cells are escaped."""
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    rows = [table.columns, *table.rows]
    cells = [[markdown_cell(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(line) + " |" for line in (cells[0], rule, *cells[1:])]
    return "\n".join([markdown_cell(table.title), "", *lines, ""])


def terminal(table: TextTable) -> Table:
    from rich.table import Table
    from rich.text import Text

    # Text: rich must not read "[1.30, 1.52]" or a label as markup.
    drawn = Table(title=Text(printable(table.title), style="table.title"), title_justify="left")
    for number_, column in enumerate(table.columns):
        drawn.add_column(Text(printable(column)), justify="right" if number_ else "left")
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn


def show(tables: Iterable[TextTable]) -> None:
    """Print tables; 200 columns wide where standard output is no terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    for table in tables:
        console.print(terminal(table))
