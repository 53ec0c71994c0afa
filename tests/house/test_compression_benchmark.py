"""benchmarks/compression.py on a tiny cache: every row is written and read, and rounding shows in its error."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tiny_cache import write_cache


def test_sizes_and_errors_of_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    compression = importlib.import_module("compression")
    cache = write_cache(tmp_path / "cache", train_frames=(1500,), valid_frames=(200,))
    lines = list(compression.table(cache, tmp_path / "rows", rounds=1))
    rows = {
        cells[1].strip(): [float(cell) for cell in cells[2:-1]] for cells in (line.split("|") for line in lines[4:])
    }
    assert list(rows) == list(compression.ROWS)
    assert rows["float16, none"][:3] == [1.0, 0.0, 0.0]
    assert rows["float16, blosc"][1] == 0
    assert 0 < rows["float16, 7 bits, blosc"][1] < rows["float16, 3 bits, blosc"][1]
    assert rows["float16, 3 bits, zstd"][0] < rows["float16, zstd"][0]
