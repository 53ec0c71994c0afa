"""Shows on stderr how far a command is: one line on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from reencoder_pipeline.plain_text import printable

Progress = Callable[[int, int], None]
"""Takes what is done and how much there is in all, in the unit of the function that calls it (frames, bytes)."""
Say = Callable[[str], None]
"""Takes one line for the user."""

LINE_EVERY_SECONDS = 30.0  # where stderr is no terminal
REDRAW_EVERY_SECONDS = 0.2  # where it is
LAYOUT = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt}{unit}{postfix}, {rate_noinv_fmt}, {remaining} left"


def unseen(done: int, total: int) -> None:
    """A Progress that shows nothing."""


class ProgressLine:
    """A Progress with time left and rate, the average since the start; nothing is drawn in the first half second.

    `first` is what an earlier process did already: the rate does not count it. `scaled` numbers are shown as 1.2M.

    Example::

        with ProgressLine("encoding", unit="frames", scaled=True) as progress:
            build_cache(..., progress=progress)
    """

    def __init__(
        self, what: str, *, unit: str, first: int = 0, scaled: bool = False, file: TextIO | None = None
    ) -> None:
        from tqdm import tqdm

        self._file = file or sys.stderr
        self._terminal, self._shown = self._file.isatty(), time.monotonic()
        self._bar = tqdm(
            desc=what, unit=f" {unit}", unit_scale=scaled, initial=first, bar_format=LAYOUT, leave=False,
            file=self._file, delay=0.5 if self._terminal else 1e9, mininterval=REDRAW_EVERY_SECONDS, smoothing=0,
        )  # fmt: skip

    def __call__(self, done: int, total: int, *, note: str = "") -> None:
        """`note` is shown behind the numbers."""
        self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if not self._terminal and time.monotonic() - self._shown >= LINE_EVERY_SECONDS:
            self._shown = time.monotonic()
            print(self._bar, file=self._file, flush=True)

    def begin(self) -> None:
        """Count the rate and the time left from here, because the work until now was quick."""
        self._bar.initial = self._bar.n
        self._bar.unpause()

    def name(self, what: str) -> None:
        """Change the name of the work that is shown."""
        self._bar.set_description_str(printable(what), refresh=False)

    def say(self, text: str, *, file: TextIO | None = None) -> None:
        """Print a line that stands alone, to stderr or to `file`."""
        if self._terminal:
            self._bar.clear()
        print(printable(text, lines=True), file=file or self._file, flush=True)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def say(text: str) -> None:
    """Print a line for the user to stderr."""
    print(printable(text, lines=True), file=sys.stderr, flush=True)
