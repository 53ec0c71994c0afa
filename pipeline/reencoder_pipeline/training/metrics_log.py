"""What a run says: rows in metrics.jsonl, the same in TensorBoard, and a progress line on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.stores.atomic import write_whole

TIMING_FIELDS = (
    "seconds", "steps_per_second", "data_share", "compute_share", "optimizer_share", "rest_share"
)  # fmt: skip
"""The only fields in which a resumed run's rows differ from an uninterrupted one's (it may repeat a warning, too)."""

LINE_EVERY_SECONDS = 30.0  # where stderr is a file
REDRAW_EVERY_SECONDS = 0.2  # where stderr is a terminal


class Journal:
    """Writes rows of three kinds, each with its step: `train` (means over `log_every` steps), `valid`, and `warning`.

    `headline` is the metric that the progress line shows; `timings` are fields of TIMING_FIELDS for a `train` row.

    Opened at a restored step it first cuts all later rows, which the steps that follow will write again; damaged rows
    among those that stay are left as they are, and counted on stderr. `pending`, the metrics of steps not yet in a row,
    travels in the training state for the same reason.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        steps: int,
        log_every: int,
        pending: list[dict[str, float]],
        tensorboard: bool,
        headline: str = "l1",
        timings: Callable[[], Mapping[str, float]] = dict,
        stream: TextIO | None = None,
    ) -> None:
        self.path, self.pending = folder / "metrics.jsonl", list(pending)
        damaged = _cut_after(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self._log_every, self._headline, self._timings = log_every, headline, timings
        self._progress = Progress(step, steps, stream=stream or sys.stderr)
        self._board = _open_board(folder / "tensorboard", step) if tensorboard else None
        if damaged:
            self.say(f"{self.path}: damaged lines, which are kept as they are: {damaged}")

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Take in the metrics of update `step` (from 1); every `log_every` steps their means become a row."""
        self.pending.append(metrics)
        if step % self._log_every == 0:
            # Of the steps that have it: a discriminator may have begun meanwhile.
            have = {name: [row[name] for row in self.pending if name in row] for name in metrics}
            means = {name: sum(values) / len(values) for name, values in have.items()}
            self.pending.clear()
            self._write("train", step, means, self._timings())
        self._progress.update(step, f"{self._headline} {metrics[self._headline]:.4f}")

    def valid(self, step: int, metrics: dict[str, float]) -> None:
        self._write("valid", step, metrics)
        self.say(f"step {step}: valid  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def warn(self, step: int, text: str | None) -> None:
        """A row and a line on stderr, if there is something to say."""
        if text is not None:
            self._file.write(json.dumps({"kind": "warning", "step": step, "text": text}) + "\n")
            self._file.flush()
            self.say(f"step {step}: warning: {text}")

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """(height, width, 3) of 0 to 1, for TensorBoard only."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")

    def sound(self, step: int, name: str, audio: np.ndarray, *, sample_rate: int) -> None:
        """(samples,), for TensorBoard only."""
        if self._board is not None:
            self._board.add_audio(name, audio[None], step, sample_rate=sample_rate)

    def say(self, text: str) -> None:
        self._progress.say(text)

    def sync(self) -> None:
        """Make the rows durable; called before a training state is, so that no restored step lacks its rows."""
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(
        self, kind: str, step: int, metrics: Mapping[str, float], timings: Mapping[str, float] | None = None
    ) -> None:
        timing = {"seconds": round(self._progress.seconds, 3), "steps_per_second": round(self._progress.rate(step), 4)}
        timing |= timings or {}
        self._file.write(json.dumps({"kind": kind, "step": step, **metrics, **timing}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            for name, value in timing.items():
                self._board.add_scalar(f"{kind}_time/{name}", value, step)


class Progress:
    """One line: step, loss, rate and time left. Redrawn on a terminal, printed now and then elsewhere."""

    def __init__(self, step: int, steps: int, *, stream: TextIO) -> None:
        self._first, self._steps, self._stream = step, steps, stream
        self._terminal = stream.isatty()
        self._start = self._shown = time.monotonic()
        self._drawn = 0  # width of the line that stands on the terminal

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def rate(self, step: int) -> float:
        """Steps per second of this process, validation and checkpoints included, as the time left must be."""
        return (step - self._first) / max(self.seconds, 1e-9)

    def update(self, step: int, text: str) -> None:
        now = time.monotonic()
        if now - self._shown < (REDRAW_EVERY_SECONDS if self._terminal else LINE_EVERY_SECONDS):
            return
        self._shown = now
        rate = self.rate(step)
        left = _duration((self._steps - step) / rate)
        line = f"step {step}/{self._steps}  {text}  {rate:.2f} steps/s  {left} left"
        if self._terminal:
            print(f"\r{line.ljust(self._drawn)}", end="", file=self._stream, flush=True)
            self._drawn = len(line)
        else:
            print(line, file=self._stream, flush=True)

    def say(self, text: str) -> None:
        self.close()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Clear the line, so that what is printed next stands alone."""
        if self._drawn:
            print(f"\r{' ' * self._drawn}\r", end="", file=self._stream, flush=True)
            self._drawn = 0


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many of its lines are none. A run that is being written may end in half a
    line, which does not count. CheckpointError where the file cannot be read."""
    *lines, _ = _content(path).split(b"\n")
    rows = [row for line in lines if (row := _row(line)) is not None]
    return rows, len(lines) - len(rows)


def _cut_after(path: Path, step: int) -> int:
    """Drop rows after `step`, and a last line that a kill left unfinished. Returns how many damaged lines are kept.

    Each row is judged by itself. A damaged line says no step: it goes where rows that go stand before it and none that
    stays comes after it.
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
    """None for a line that no journal has written."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    sound = isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("kind"), str)
    return row if sound else None


def _open_board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
