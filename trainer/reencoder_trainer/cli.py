"""The command `reencoder-train`: parses arguments and prints results; torch is imported only to train."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from reencoder_pipeline.exit_codes import SOME_FAILED, FirstByDefault, run
from reencoder_pipeline.plain_text import printable

if TYPE_CHECKING:
    from reencoder_trainer.run_list import RunSummary


app = typer.Typer(cls=FirstByDefault, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True)


@app.callback()
def main_help() -> None:
    """Train latent modules from a latent cache: reencoder-train CONFIG [--resume]."""


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/train/ has examples", show_default=False)],
    resume: Annotated[bool, typer.Option("--resume", help="continue from the run folder's last checkpoint")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting; repeatable")
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="print all settings and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON summary instead of the module's path")] = False,
) -> None:
    """Train a latent module from a latent cache and print the path of its file. The word `train` may be left out.

    Under `torchrun --no-python reencoder-train CONFIG` all processes share the global batch.
    """
    from reencoder_pipeline.config import load_config
    from reencoder_trainer.config import TrainConfig

    settings = load_config(config, TrainConfig, overrides or ())
    if print_config:
        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
        return
    from reencoder_trainer.training.train import train as run_training

    trained = run_training(settings, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # under torchrun only one process prints
        print(json.dumps(asdict(trained), default=str) if as_json else trained.module)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="the folder that holds the run folders")] = Path("out/runs"),
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """List the runs below a folder: recipe, progress, and the last validation next to its two references."""
    from reencoder_trainer.run_list import list_runs

    found, unreadable = list_runs(folder)
    if as_json:
        print("\n".join(json.dumps(asdict(one)) for one in found))
    else:
        _print_table(found)
    for text in unreadable:
        print(f"run not readable: {printable(text, lines=True)}", file=sys.stderr)
    if unreadable:
        raise typer.Exit(SOME_FAILED)


def _print_table(found: list[RunSummary]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "recipe"):
        table.add_column(name, overflow="fold")
    for name in ("steps", "valid l1", "no module", "means", "steps/s", "last change"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        progress = f"{one.step:,}" if one.is_finished else f"{one.step:,} of {one.steps:,}"
        valid = [f"{one.valid[key]:.4f}" if key in one.valid else "-" for key in REFERENCES]
        rate = "-" if one.steps_per_second is None else f"{one.steps_per_second:.2f}"
        names = [Text(printable(name)) for name in (one.name, one.recipe)]  # Text: rich reads no markup in it
        table.add_row(*names, progress, *valid, rate, _ago(one.seconds))
        for text in one.warnings:
            table.add_row("", Text(f"warning: {printable(text)}"))
    console = Console()
    # Without a terminal the table is wide, so that a program that reads it finds each run on one line.
    console.print(table, width=None if console.is_terminal else 200)


REFERENCES = ("l1", "l1_no_module", "l1_channel_means")


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
