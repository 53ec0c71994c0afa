"""What command-line apps share: exit codes, one message for an expected error, interruptions, a default command."""

from __future__ import annotations

import math
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from typer.core import TyperGroup

from reencoder_pipeline.errors import ReencoderError
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.stores.atomic import FULL_DISK

DONE, USAGE, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130


def run(app: typer.Typer) -> NoReturn:
    """Run `app` on the process's arguments and exit.

    Exit codes: 0 done; 2 wrong usage, a ReencoderError (printed as one message) or a full disk; 3 if the command raises
    typer.Exit(SOME_FAILED); 130 interrupted, after printing the KeyboardInterrupt's message, such as the command that
    resumes. Any other exception is a bug: Python shows its traceback and exits 1. Build the app with
    `pretty_exceptions_enable=False`.
    """
    try:
        app()  # always leaves with SystemExit
    except ReencoderError as error:
        print(f"error: {printable(error, lines=True)}", file=sys.stderr)
        sys.exit(USAGE)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        where = printable(error.filename or "a file could not be written")
        remedy = "free some space, then run the same command again"
        print(f"error: {where}: {error.strerror}\n  try: {remedy}", file=sys.stderr)
        sys.exit(USAGE)
    except SystemExit as leaving:
        # Typer turns a KeyboardInterrupt into exit 130 and drops its message; it is still there as the context.
        if leaving.code == INTERRUPTED and (message := _interruption(leaving)):
            print(message, file=sys.stderr)
        raise
    sys.exit(DONE)


@contextmanager
def resuming() -> Iterator[None]:
    """Ctrl-C, or the SIGTERM of a job scheduler, ends this block in order, with the line that resumes."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        line = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        raise KeyboardInterrupt(f"interrupted; what is finished is kept, and this command continues: {line}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


class FirstByDefault(TyperGroup):
    """The name of the first command may be left out: `reencoder-eval CONFIG` means `reencoder-eval run CONFIG`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        own_options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own_options:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def a_number(value: float | None) -> float | None:
    """Refuse NaN, as the `callback` of an option with bounds: NaN passes every bound."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number")
    return value


def _interruption(error: BaseException | None) -> str:
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return str(error)
        error = error.__cause__ or error.__context__
    return ""
