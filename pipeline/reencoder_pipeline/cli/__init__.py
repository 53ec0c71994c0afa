"""The command line `reencoder-cache`: it parses and prints, and holds no logic."""

from __future__ import annotations

import io
import sys

import typer

from reencoder_pipeline.cli.build import build, plan
from reencoder_pipeline.cli.exchange import convert, export, import_
from reencoder_pipeline.cli.fetch import fetch
from reencoder_pipeline.cli.inspect import inspect, verify
from reencoder_pipeline.exit_codes import run

app = typer.Typer(
    help="Encode a corpus of audio once into a latent cache, and look after it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (build, plan, inspect, verify, convert, export):
    app.command()(command)
app.command(name="import")(import_)
app.command()(fetch)


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text in any encoding
    run(app)
