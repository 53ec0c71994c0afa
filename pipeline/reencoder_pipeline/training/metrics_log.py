"""Writes the metrics of a run: rows in metrics.jsonl, and the same in TensorBoard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.progress import Say
from reencoder_pipeline.progress import say as say_on_stderr
from reencoder_pipeline.stores.atomic import write_whole
from reencoder_pipeline.stores.jsonl import json_lines

TIMING_FIELDS = (
    "seconds", "steps_per_second", "data_share", "compute_share", "optimizer_share", "rest_share"
)  # fmt: skip
"""The only fields in which a resumed run's rows differ from an uninterrupted one's (it may repeat a warning, too)."""


class MetricsLog:
    """Writes rows of three kinds, each with its step: `train` (means over `log_every` steps), `valid`, and `warning`.

    `timings` gives fields of TIMING_FIELDS for a `train` row. Validations and warnings are also said to `say`.

    Opened at a restored step it first cuts all later rows, which the steps that follow will write again; damaged rows
    among those that stay are left as they are, and counted. `pending`, the metrics of steps not yet in a row, travels
    in the training state for the same reason.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        log_every: int,
        pending: Sequence[dict[str, float]] = (),
        tensorboard: bool = False,
        timings: Callable[[], Mapping[str, float]] = dict,
        say: Say = say_on_stderr,
    ) -> None:
        self.path, self.pending = folder / "metrics.jsonl", list(pending)
        damaged = _cut_after(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self._log_every, self._timings, self._say = log_every, timings, say
        self._first, self._start = step, time.monotonic()
        self._board = _open_board(folder / "tensorboard", step) if tensorboard else None
        if damaged:
            say(f"{self.path}: damaged lines, which are kept as they are: {damaged}")

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Take in the metrics of update `step` (from 1); every `log_every` steps their means become a row."""
        self.pending.append(metrics)
        if step % self._log_every == 0:
            # A term may have begun meanwhile (a discriminator's): its mean is over the steps that have it.
            have = {name: [row[name] for row in self.pending if name in row] for name in metrics}
            means = {name: sum(values) / len(values) for name, values in have.items()}
            self.pending.clear()
            self._write("train", step, means, self._timings())

    def valid(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write("valid", step, metrics)
        self._say(f"step {step}: valid  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def warn(self, step: int, text: str | None) -> None:
        """A row and a line for the user, if there is something to say."""
        if text is not None:
            self._append({"kind": "warning", "step": step, "text": text})
            self._say(f"step {step}: warning: {text}")

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """(height, width, 3) of 0 to 1, for TensorBoard only."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")

    def sound(self, step: int, name: str, audio: np.ndarray, *, sample_rate: int) -> None:
        """(samples,), for TensorBoard only."""
        if self._board is not None:
            self._board.add_audio(name, audio[None], step, sample_rate=sample_rate)

    def sync(self) -> None:
        """Make the rows durable; called before a training state is, so that no restored step lacks its rows."""
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, kind: str, step: int, metrics: Mapping[str, float], timings: Mapping[str, float] = {}) -> None:
        seconds = time.monotonic() - self._start
        # Of this process, validation and checkpoints included, as the time left must be.
        rate = (step - self._first) / max(seconds, 1e-9)
        timing = {"seconds": round(seconds, 3), "steps_per_second": round(rate, 4), **timings}
        self._append({"kind": kind, "step": step, **metrics, **timing})
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            for name, value in timing.items():
                self._board.add_scalar(f"{kind}_time/{name}", value, step)

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(json_lines([row]))
        self._file.flush()


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many of its lines are none. A run that is being written may end in half a
    line, which does not count. CheckpointError where the file cannot be read."""
    *lines, _ = _content(path).split(b"\n")
    rows = [row for line in lines if (row := _row(line)) is not None]
    return rows, len(lines) - len(rows)


def _cut_after(path: Path, step: int) -> int:
    """Drop rows after `step`, and a last line that a kill left unfinished. Returns how many damaged lines are kept.

    Each row is judged by itself. A damaged line has no step: it is dropped if dropped rows stand before it and no kept
    row comes after it.
    """
    if not path.exists() and not path.is_symlink():
        return 0
    content = _content(path)
    *lines, unfinished = content.split(b"\n")
    if _row(unfinished):  # a whole row that lacks only its newline
        lines.append(unfinished)
    rows = [_row(line) for line in lines]
    stay = [number for number, row in enumerate(rows) if row and row["step"] <= step]
    go = [number for number, row in enumerate(rows) if row and row["step"] > step]
    damaged_until = max(stay[-1] if stay else 0, go[0] if go else len(rows))
    damaged = [number for number, row in enumerate(rows[:damaged_until]) if row is None]
    left = b"".join(lines[number] + b"\n" for number in sorted([*stay, *damaged]))
    if left != content:
        write_whole(path, left)
    return len(damaged)


def _content(path: Path) -> bytes:
    try:
        if path.is_file() and not path.is_symlink():  # a link may lead anywhere, and rows will be written to it
            return path.read_bytes()
        problem: object = "a link" if path.is_symlink() else "not a file"
    except OSError as error:
        problem = error.strerror
    raise CheckpointError(
        "the run's metrics cannot be read", where=path, value=problem, remedy="restore the file, or move it away"
    )


def _row(line: bytes) -> dict[str, Any] | None:
    """None for a line that this program has not written."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    sound = isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("kind"), str)
    return row if sound else None


def _open_board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
