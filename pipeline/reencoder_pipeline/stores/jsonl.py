"""Writes JSON lines: one object a line, files whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reencoder_pipeline.stores.atomic import write_text


def json_lines(rows: Iterable[Mapping[str, Any]], *, ascii_only: bool = True) -> str:
    """A line for each row. In ASCII it holds any file's name, also one that is no text."""
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]], *, ascii_only: bool = True) -> None:
    """Replace the file at `path`: afterwards it is the old one or the new one."""
    write_text(path, json_lines(rows, ascii_only=ascii_only))
