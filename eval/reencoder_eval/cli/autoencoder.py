"""`reencoder-autoencoder`: train the house autoencoder, measure it or any other, write its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from reencoder_eval.cli.evaluate import Overwrite, Resume, Set
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.exit_codes import SOME_FAILED, resuming, run
from reencoder_pipeline.progress import say

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True)

NAME_HELP = "house, a file or folder of weights, a hub id, or package.module:function, which is imported and called"
Name = Annotated[str, typer.Argument(help=NAME_HELP)]


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="a YAML file; configs/autoencoder/ has examples")],
    resume: Resume = False,
    set_: Set = None,
) -> None:
    """Train an autoencoder on waveforms. Prints the path of its weights."""
    from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
    from reencoder_pipeline.config import load_config

    settings = load_config(config, AutoencoderTrainConfig, set_ or [])
    from reencoder_pipeline.autoencoders.vocos.training.train import train_autoencoder

    print(train_autoencoder(settings, resume=resume, say=say))


@app.command()
def evaluate(
    autoencoder: Name,
    config: Annotated[
        Path | None, typer.Option(help="a YAML file; default: what configs/eval/autoencoder.yaml says")
    ] = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="print autoencoder.json instead of tables")] = False,
) -> None:
    """Measure an autoencoder on music: STFT-D, mel-D and SI-SDR beside sinc and the paper, and its latents.

    The validation split: --set split=valid. Your own music: --set source=/my/music. The same command again resumes.
    """
    from reencoder_eval.config import AutoencoderEvalConfig, ClipsConfig
    from reencoder_pipeline.config import load_config

    if Path(autoencoder).suffix in (".yaml", ".yml"):
        raise ConfigError(
            "the first argument is an autoencoder, a configuration goes to --config",
            value=autoencoder,
            remedy="reencoder-autoencoder evaluate house --config configs/eval/autoencoder.yaml",
        )
    settings = load_config(config, AutoencoderEvalConfig, set_ or [])
    from reencoder_eval.autoencoder_report.evaluate_autoencoder import default_folder, evaluate_autoencoder
    from reencoder_eval.autoencoder_report.report_tables import report_tables
    from reencoder_eval.evaluation_folder import AUTOENCODER, LATENTS_FIGURE, REPORT
    from reencoder_eval.request import EvaluationRequest
    from reencoder_eval.tables.text_table import show

    out = settings.out or default_folder(autoencoder, settings.split)
    clips: dict[str, Any] = {name: getattr(settings, name) for name in ClipsConfig.model_fields}
    with resuming():
        report, evaluation = evaluate_autoencoder(
            EvaluationRequest(autoencoder=autoencoder, out=out, **clips),
            diagnostic_clips=settings.diagnostic_clips,
            diagnostic_seconds=settings.diagnostic_seconds,
        )
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show(report_tables(report))
        for name in (AUTOENCODER, REPORT, *([LATENTS_FIGURE] if report["diagnostics"] else [])):
            typer.echo(out / name)
    if evaluation.failures:
        typer.echo(f"{len(evaluation.failures)} failures, see {out / 'failures.jsonl'}", err=True)
        raise typer.Exit(SOME_FAILED)


@app.command()
def card(  # noqa: PLR0917, typer reads the signature
    autoencoder: Name,
    measured: Annotated[Path, typer.Option("--from", metavar="FOLDER", help="what `evaluate` wrote")],
    out: Annotated[Path, typer.Option(metavar="FILE.md", help="the card")],
    music: Annotated[
        Path | None, typer.Option(help="manifest of the music it was trained on; default: what is known of house")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="of the weights; default: what the autoencoder says")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the model card of an autoencoder from its measurements. Prints the path of the card."""
    from reencoder_eval.autoencoder_report.card import write_card

    typer.echo(write_card(autoencoder, measured=measured, out=out, music=music, licence=licence, overwrite=overwrite))


def main() -> None:
    run(app)
