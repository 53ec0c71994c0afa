"""`reencoder-autoencoder`: train the house autoencoder, and measure it (or any other) on music."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from reencoder_pipeline.command_line import SOME_FAILED, run
from reencoder_pipeline.config import AutoencoderTrainConfig, load_config

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True)

Config = Annotated[Path, typer.Argument(help="a YAML file; configs/autoencoder/ and configs/eval/ have examples")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting; repeatable")]


@app.command()
def train(
    config: Config,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in the run folder")] = False,
    set_: Set = None,
) -> None:
    """Train an autoencoder on waveforms. Prints the path of its weights."""
    settings = load_config(config, AutoencoderTrainConfig, set_ or [])
    from reencoder_pipeline.autoencoders.vocos.train import train_autoencoder

    print(train_autoencoder(settings, resume=resume, progress=lambda line: print(line, file=sys.stderr, flush=True)))


@app.command()
def evaluate(
    config: Config,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the tables as JSON")] = False,
) -> None:
    """Measure an autoencoder's reconstruction of the clips of an evaluation config, beside the sinc row."""
    from reencoder_eval.config import EvalConfig

    settings = load_config(config, EvalConfig, [*(set_ or []), "modules=[]"])
    from reencoder_eval.cli import print_tables
    from reencoder_eval.evaluate import evaluate as run_evaluation

    evaluation = run_evaluation(**{**dict(settings), "modules": []})
    print_tables(settings.out, as_json=as_json, markdown=False)
    if evaluation.failures:
        print(f"{len(evaluation.failures)} failures, see {settings.out / 'failures.jsonl'}", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def main() -> None:
    run(app)
