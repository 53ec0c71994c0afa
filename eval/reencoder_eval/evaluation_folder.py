"""What the folder of one evaluation holds, by name, and how its files are read and written whole."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.safe_text import parse_json
from reencoder_pipeline.stores.atomic import FULL_DISK, scratch_owner, write_text, write_whole
from reencoder_pipeline.stores.own_folder import folder_lock, require_own_folder

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
OWN = {RUN: ("title", "systems", "clips", "autoencoder")}  # by which the folder of an evaluation is known
MADE = {  # names of files that evaluations make, and remove when they belong to no row any more
    AUDIO: re.compile(r"[A-Za-z0-9-]*\.[A-Za-z0-9-]*\.[0-9a-f]{8}\.flac"),
    LATENTS: re.compile(r"[0-9a-f]{64}\.npz"),
}
NOT_WRITABLE = {*FULL_DISK, *(getattr(errno, name) for name in ("EFBIG", "EACCES", "EPERM", "EROFS", "EIO", "EISDIR"))}


@contextmanager
def working_in(run: Path) -> Iterator[None]:
    """Hold the folder of an evaluation, which is made if it is absent. ConfigError where it is somebody else's or
    another process works in it; EvaluationError, naming the file, where a file cannot be written."""
    require_own_folder(run, marks=OWN)
    with named_if_not_writable(run), folder_lock(run, what="an evaluation"):
        for folder in (run, *(run / name for name in (AUDIO, LATENTS, EXTERNAL))):
            for file in folder.glob(".*.partial"):
                if scratch_owner(file.name) is not None:  # of a run that was killed: this one holds the lock
                    file.unlink()
        yield


@contextmanager
def named_if_not_writable(path: Path) -> Iterator[None]:
    """EvaluationError for a full disk or a file that may not be written; `path` is named where the error names none."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise EvaluationError(
            "cannot be written", where=error.filename or path, value=error.strerror,
            remedy="make room or check permissions, then give the same command again: it goes on",
        ) from None  # fmt: skip


def remove_stale(run: Path, *, kept: Iterable[Path]) -> None:
    """Files of audio and latents that evaluations have made, but for `kept`. Files of other names stay."""
    kept = set(kept)
    for folder, made in MADE.items():
        for file in (run / folder).glob("*"):
            if file not in kept and made.fullmatch(file.name) and file.is_file():
                file.unlink()


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
    return [_object(line, what="line", where=f"{path}:{number}") for number, line in enumerate(lines[:-1], start=1)]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None if it is absent."""
    return _object(path.read_bytes(), what="file", where=path) if path.is_file() else None


def _object(content: bytes, *, what: str, where: object) -> dict[str, Any]:
    try:
        values = parse_json(content, kind=EvaluationError, where=where, what=what)
        found = f"{type(values).__name__}, not an object"
    except EvaluationError as error:
        values, found = None, f"{error.what}: {error.value}"
    if not isinstance(values, dict):
        raise EvaluationError(
            f"the {what} is not a JSON object: it is damaged, or another program's", where=where, value=found,
            remedy="move the file away and evaluate again",
        )  # fmt: skip
    return values


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    with named_if_not_writable(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_audio(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """(channels, samples) -> 16-bit FLAC; what exceeds full scale is clipped."""
    import soundfile

    content = io.BytesIO()  # libsndfile does not say why a write failed, nor always that it did
    soundfile.write(content, audio.T, sample_rate, format="FLAC", subtype="PCM_16")  # (C, n) -> (n, C)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getbuffer())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, values: object) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")


def plain(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-60:]
