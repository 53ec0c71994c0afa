"""`reencoder-eval CONFIG` evaluates; `reencoder-eval tables RUN` prints the tables of a finished run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reencoder_pipeline.exit_codes import SOME_FAILED, FirstByDefault, resuming
from reencoder_pipeline.exit_codes import run as run_app
from reencoder_pipeline.progress import say

if TYPE_CHECKING:
    from reencoder_eval.config import EvalConfig
    from reencoder_eval.request import EvaluationRequest


Resume = Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in the run folder")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting; repeatable")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="replace a file of that name that is no card of ours; cards are replaced anyway"),
]


app = typer.Typer(
    cls=FirstByDefault, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True, help=__doc__
)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="a YAML file; configs/eval/ has examples")],
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the tables as JSON")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="print the whole configuration, stop")] = False,
) -> None:
    """Run every system on every clip, score, and write tables and the listening page. Again: resume."""
    from reencoder_eval.config import EvalConfig
    from reencoder_pipeline.config import load_config

    settings = load_config(config, EvalConfig, set_ or [])
    if print_config:
        import yaml

        typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)
        return
    from reencoder_eval.evaluate import evaluate

    with resuming():
        evaluation = evaluate(request_of(settings))
    print_tables(settings.out, as_json=as_json, markdown=False)
    if not as_json:
        typer.echo(settings.out / "report.html")
    if evaluation.failures:
        typer.echo(f"{len(evaluation.failures)} failures, see {settings.out / 'failures.jsonl'}", err=True)
        raise typer.Exit(SOME_FAILED)


def request_of(settings: EvalConfig) -> EvaluationRequest:
    from reencoder_eval.baselines.external import ExternalProgram
    from reencoder_eval.request import EvaluationRequest

    lists: dict[str, Any] = {
        "modules": tuple((entry.label, entry.path) for entry in settings.modules),
        "baselines": tuple((entry.name, entry.weights, entry.label) for entry in settings.baselines),
        "external": tuple(ExternalProgram(**dict(entry)) for entry in settings.external),
        "quality": tuple(settings.quality),
    }
    return EvaluationRequest(**{**dict(settings), **lists})


@app.command("train-baseline")
def train_baseline(
    config: Annotated[Path, typer.Argument(help="a YAML file; configs/baseline/ has examples")],
    resume: Resume = False,
    set_: Set = None,
) -> None:
    """Train Aero or MusicHiFi on raw audio by its paper's recipe. Prints the path of its weights."""
    from reencoder_eval.config import BaselineTrainConfig
    from reencoder_pipeline.config import load_config

    settings = load_config(config, BaselineTrainConfig, set_ or [])
    from reencoder_eval import train_baseline as train

    typer.echo(train.train_baseline(settings, resume=resume, say=say))


@app.command()
def tables(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    against: Annotated[
        str | None, typer.Option(metavar="ROW", help="compare with this row, by its label; default: no module")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="as Markdown")] = False,
) -> None:
    """Print the tables of a run, from scores.jsonl alone (costs are shown if costs.json is there)."""
    print_tables(run, against=against, as_json=as_json, markdown=markdown)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="the folder of a finished run")]) -> None:
    """Write tables, figures and page of a run again, from what its folder holds. Prints the path of the page."""
    from reencoder_eval.evaluation_folder import working_in
    from reencoder_eval.report.listening_page import write_report
    from reencoder_eval.run_contents import description_of
    from reencoder_eval.tables.score_tables import write_tables

    description_of(run)  # it is the folder of an evaluation, or an error
    with working_in(run):
        write_tables(run)
        typer.echo(write_report(run))


@app.command()
def card(  # noqa: PLR0917, typer reads the signature
    module: Annotated[str, typer.Argument(help="a module file, the folder of a run, or a released module's name")],
    row: Annotated[str, typer.Option(help="the label of the module in the runs' tables")],
    runs: Annotated[list[Path], typer.Option("--from", metavar="RUN", help="a finished evaluation; repeatable")],
    name: Annotated[str | None, typer.Option(help="what the module is loaded by: a released name or a hub id")] = None,
    licence: Annotated[str | None, typer.Option(help="of the weights")] = None,
    out: Annotated[Path | None, typer.Option(help="a file; default: standard output")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the card of a module, with what evaluations found of it."""
    from reencoder_eval.report.card_file import require_card_place, write_card_file
    from reencoder_eval.report.module_card import card_with_results

    if out is not None:
        require_card_place(out, overwrite=overwrite)
    text = card_with_results(module, row=row, runs=runs, name=name, licence=licence)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_card_file(out, text, overwrite=overwrite)
        typer.echo(out)


def print_tables(run: Path, *, against: str | None = None, as_json: bool, markdown: bool) -> None:
    from reencoder_eval.run_contents import costs_of, finished_scores, latent_scores_of
    from reencoder_eval.tables import score_tables as tables
    from reencoder_eval.tables import text_table

    summary = tables.summarise(finished_scores(run), against=against)
    texts = tables.text_tables(summary, costs_of(run), latent_scores_of(run))
    if as_json:
        typer.echo(json.dumps(summary.to_dict()))
    elif markdown:
        typer.echo("\n".join(text_table.markdown(table) for table in texts), nl=False)
    else:
        text_table.show(texts)


def main() -> None:
    run_app(app)
