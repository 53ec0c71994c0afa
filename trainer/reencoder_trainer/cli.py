"""`reencoder-train`: parses and prints; torch is imported only once there is something to train."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import yaml

from reencoder_pipeline.command_line import run
from reencoder_pipeline.config import load_config
from reencoder_trainer.config import TrainConfig

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/train/ has examples", show_default=False)],
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in the run folder")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting; repeatable")
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="print all settings and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print a summary as JSON, not the module's path")] = False,
) -> None:
    """Train a latent module from a latent cache. Prints the path of the module file.

    Under `torchrun --no-python reencoder-train CONFIG` all processes share the global batch.
    """
    settings = load_config(config, TrainConfig, overrides or ())
    if print_config:
        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
        return
    from reencoder_trainer.train import train as run_training

    trained = run_training(settings, resume=resume)
    print(json.dumps(asdict(trained), default=str) if as_json else trained.module)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
