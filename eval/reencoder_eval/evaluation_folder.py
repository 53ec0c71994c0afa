"""Names the files in the folder of an evaluation, and reads and writes them."""

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
from reencoder_pipeline.stores.jsonl import json_lines
from reencoder_pipeline.stores.own_folder import folder_lock, require_own_folder

RUN, COSTS, FAILURES = "run.json", "costs.json", "failures.jsonl"  # RUN: the request, systems and clips
SCORES = "scores.jsonl"  # one row per clip and system; written last, so it exists only if the run is complete
JOURNAL = "scores.partial.jsonl"  # rows of an unfinished run
TABLES, MARKDOWN, REPORT = "tables.json", "tables.md", "report.html"
CHART, BALANCES = "stft_d.svg", "balance.svg"  # after the paper's figures 2 and 3
AUTOENCODER, LATENTS_FIGURE = "autoencoder.json", "latents.png"  # only of `reencoder-autoencoder evaluate`
AUDIO = "audio"
LATENTS, LATENT_SCORES = "latents", "latents.json"  # statistics of each row's latents; Fréchet distances
EXTERNAL = "external"  # outputs of external programs
REFERENCE = "reference"  # stands for a system in the name of a reference's audio file
OWN = {RUN: ("title", "systems", "clips", "autoencoder")}  # keys that identify the folder of an evaluation
MADE = {  # names of files that evaluations write, and remove if they no longer belong to a row
    AUDIO: re.compile(r"[A-Za-z0-9-]*\.[A-Za-z0-9-]*\.[0-9a-f]{8}\.flac"),
    LATENTS: re.compile(r"[0-9a-f]{64}\.npz"),
}
NOT_WRITABLE = {*FULL_DISK, *(getattr(errno, name) for name in ("EFBIG", "EACCES", "EPERM", "EROFS", "EIO", "EISDIR"))}


@contextmanager
def working_in(run: Path) -> Iterator[None]:
    """Make and lock the folder of an evaluation.

    ConfigError if it belongs to something else or another process works in it. EvaluationError, naming the file, if
    a file cannot be written.
    """
    require_own_folder(run, marks=OWN)
    with named_if_not_writable(run), folder_lock(run, what="an evaluation"):
        for folder in (run, *(run / name for name in (AUDIO, LATENTS, EXTERNAL))):
            for file in folder.glob(".*.partial"):
                if scratch_owner(file.name) is not None:  # left by a killed run, because this process holds the lock
                    file.unlink()
        yield


@contextmanager
def named_if_not_writable(path: Path) -> Iterator[None]:
    """EvaluationError for a full disk or a file without permission; it names the file or, if unknown, `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise EvaluationError(
            "the file cannot be written", where=error.filename or path, value=error.strerror,
            remedy="free space or check permissions, then run the same command again to continue",
        ) from None  # fmt: skip


def remove_stale(run: Path, *, kept: Iterable[Path]) -> None:
    """Remove the audio and latents that evaluations wrote, except `kept`. Files with other names stay."""
    kept = set(kept)
    for folder, made in MADE.items():
        for file in (run / folder).glob("*"):
            if file not in kept and made.fullmatch(file.name) and file.is_file():
                file.unlink()


def audio_path(run: Path, clip: str, system: str, *, key: str = "") -> Path:
    """The path of an audio file. `key` is the row's, so that each version of a system has its own file."""
    digest = hashlib.sha256(f"{clip}/{system}/{key}".encode()).hexdigest()[:8]
    return run / AUDIO / f"{plain(clip)}.{plain(system)}.{digest}.flac"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, none if it is absent. A torn last line, left by a kill, is skipped."""
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
            f"the {what} is not a JSON object: it is damaged or from another program", where=where, value=found,
            remedy="move the file away and evaluate again",
        )  # fmt: skip
    return values


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    with named_if_not_writable(path), path.open("a", encoding="utf-8") as file:
        file.write(json_lines([row]))


def write_audio(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """(channels, samples) -> 16-bit FLAC; values beyond full scale are clipped."""
    import soundfile

    content = io.BytesIO()  # written by Python: libsndfile does not always report a failed write, and never its cause
    soundfile.write(content, audio.T, sample_rate, format="FLAC", subtype="PCM_16")  # (C, n) -> (n, C)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getbuffer())


def write_json(path: Path, values: object) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")


def plain(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-60:]
