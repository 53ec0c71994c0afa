"""What commands print: results on stdout, messages on stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from reencoder_pipeline.exit_codes import SOME_FAILED
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.progress import say


def print_summary(summary: dict[str, object], as_json: bool) -> None:
    """A line a value, or all as JSON."""
    counts = {k: ", ".join(f"{what} ({n})" for what, n in v.items()) for k, v in summary.items() if isinstance(v, dict)}
    lines = (f"{name.replace('_', ' ')}: {value}" for name, value in {**summary, **counts}.items() if value != "")
    print(json.dumps(summary) if as_json else printable("\n".join(lines), lines=True))


def finish(summary: dict[str, object], failures: Sequence[dict[str, str]], out: Path | str, as_json: bool) -> None:
    """Print the summary; name the first files that failed on stderr, and exit 3 if there are any."""
    print_summary(summary, as_json)
    if failures:
        say(f"{len(failures)} file(s) could not be used and were left out, see {out}/failures.jsonl:")
        for failure in failures[:10]:
            say(failure["error"])
        raise typer.Exit(SOME_FAILED)
