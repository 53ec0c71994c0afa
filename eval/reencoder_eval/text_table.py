"""A table as text, and its forms: Markdown and the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

NOTHING = "-"


@dataclass(frozen=True)
class TextTable:
    """A table as text, for whatever shows it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def markdown(table: TextTable) -> str:
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{table.title}\n\n{body}\n"


def terminal(table: TextTable) -> Table:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=table.title, title_justify="left")
    for number_, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if number_ else "left")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))  # Text: "[1.30, 1.52]" is not markup
    return drawn
