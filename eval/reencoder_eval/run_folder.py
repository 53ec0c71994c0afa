"""What the folder of one evaluation holds, by name, and how its files are read and written whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reencoder_pipeline.durable import write_text
from reencoder_pipeline.errors import EvaluationError

RUN, COSTS, FAILURES = "run.json", "costs.json", "failures.jsonl"  # RUN: what was asked for, systems and clips
SCORES = "scores.jsonl"  # one row per clip and system; written last, so it is only there when the run is complete
JOURNAL = "scores.partial.jsonl"  # rows of an unfinished run
TABLES, MARKDOWN, REPORT = "tables.json", "tables.md", "report.html"
CHART, BALANCES = "stft_d.svg", "balance.svg"  # after the paper's figures 2 and 3
AUTOENCODER, LATENTS_FIGURE = "autoencoder.json", "latents.png"  # of `reencoder-autoencoder evaluate` alone
AUDIO = "audio"
LATENTS, LATENT_SCORES = "latents", "latents.json"  # what scores in latent space are made of, by row; Fréchet distances
EXTERNAL = "external"  # what programs made of which audio
REFERENCE = "reference"  # the audio that estimates are compared with, beside the systems' own


def audio_path(run: Path, clip: str, system: str, *, key: str = "") -> Path:
    """A readable name and a digest; `key` is the row's, so that a file never belongs to another version of a system."""
    digest = hashlib.sha256(f"{clip}/{system}/{key}".encode()).hexdigest()[:8]
    return run / AUDIO / f"{plain(clip)}.{plain(system)}.{digest}.flac"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, none if it is absent. A torn last line, left by a kill, is passed over."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    # Whole lines end in a newline: the last piece is empty or torn.
    return [_row(line, f"{path}:{number}") for number, line in enumerate(lines[:-1], start=1)]


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        row, problem = None, f"{type(error).__name__}: {error}"[:200]
    else:
        problem = type(row).__name__
    if not isinstance(row, dict):
        raise EvaluationError(
            "the line is not a JSON object", where=where, value=problem, remedy="remove the file and evaluate again"
        )
    return row


def read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, values: object) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")


def plain(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-60:]
