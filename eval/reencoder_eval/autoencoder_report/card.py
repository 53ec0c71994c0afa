"""The model card of an autoencoder, in Hugging Face's form, written from its measurements alone."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from reencoder_eval.autoencoder_report.readings import measured, readings
from reencoder_eval.autoencoder_report.report_tables import (
    METRIC_NAMES,
    Report,
    clips_text,
    score_table,
    size_table,
)
from reencoder_eval.autoencoder_report.training_music import Music, read_music
from reencoder_eval.autoencoder_report.weights_record import weights_file
from reencoder_eval.config import AutoencoderEvalConfig
from reencoder_eval.evaluation_folder import AUTOENCODER, read_json
from reencoder_eval.report.card_file import require_card_place, write_card_file
from reencoder_pipeline.autoencoder import HOUSE
from reencoder_pipeline.config import load_config
from reencoder_pipeline.corpora.debian_music import manifest_path
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.plain_text import front_matter, printable, rendered
from reencoder_pipeline.stores.digests import file_digest

TEMPLATES = Path(__file__).parents[1] / "templates"
NOT_AS_WRITTEN = (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, TemplateError)
# What a value means for use: bounds between one sentence and the next, not claims about a model.
FOLLOWS_WAVEFORM_DB = 10.0
FAR_FROM_PAPER = 1.5


def write_card(
    name: str, *, measured: Path, out: Path, music: Path | None, licence: str | None, overwrite: bool = False
) -> Path:
    """EvaluationError where `measured` holds no measurements, or those of other weights than `name` has now."""
    require_card_place(out, overwrite=overwrite)
    report = read_json(measured / AUTOENCODER)
    if report is None:
        remedy = f"run: reencoder-autoencoder evaluate {shlex.quote(name)} --set out={shlex.quote(str(measured))}"
        raise EvaluationError("there are no measurements", where=measured / AUTOENCODER, remedy=remedy)
    manifest = music or (manifest_path() if name == HOUSE else None)
    options = {"--music": music, "--licence": licence}
    words = [word for key, value in options.items() if value is not None for word in (key, str(value))]
    command = shlex.join(["reencoder-autoencoder", "card", name, "--from", str(measured), "--out", str(out), *words])
    try:
        require_same_weights(name, report, where=measured / AUTOENCODER)
        text = autoencoder_card(
            report,
            name=name,
            music=read_music(manifest) if manifest else None,
            licence=licence or report["autoencoder"]["licence"],
            commands=[*measuring_commands(report, name=name), command],
        )
    except NOT_AS_WRITTEN as error:
        raise _of_another_version(measured / AUTOENCODER, error) from error
    write_card_file(out, text, overwrite=overwrite)
    return out


def require_same_weights(name: str, report: Report, *, where: Path) -> None:
    file, digest = weights_file(name), report["autoencoder"]["weights"]
    found = report["name"] if file is None else file_digest(file)
    if found != (name if file is None else digest):
        raise EvaluationError(
            "these are measurements of another autoencoder",
            where=where,
            value=f"{report['name']}, weights {digest[:12]}; {name} is {found[:12]}",
            remedy=f"run: reencoder-autoencoder evaluate {shlex.quote(name)}",
        )


def autoencoder_card(report: Report, *, name: str, music: Music | None, licence: str, commands: Sequence[str]) -> str:
    """Markdown with front matter. Nothing in it is written by hand: what is not in `report` is "not measured"."""
    weights = report["weights"] or {}
    spec = report["autoencoder"]
    try:
        return rendered(TEMPLATES / "model_card.md.jinja", {
            "front_matter": autoencoder_front_matter(report, name=name, licence=licence),
            "name": name,
            "spec": spec,
            "values_per_second": spec["channels"] * spec["frame_rate"],
            "licence": licence,
            "weights": weights,
            "training": training_facts(weights),
            "music": music,
            "size": size_table(report),
            "scores": score_table(report),
            "speed": report["size"],
            "readings": readings(report["diagnostics"]),
            "diagnosed": report["diagnostics"],
            "clips": clips_text(report),
            "settings": report["settings"],
            "limits": limits(report),
            "commands": [printable(command, lines=True) for command in commands],
            "fence": "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "".join(commands))), default=0)),
            "snippet": printable(json.dumps(name, ensure_ascii=False)),
            "versions": report["versions"],
            "number": measured,
        })  # fmt: skip
    except NOT_AS_WRITTEN as error:
        raise _of_another_version(AUTOENCODER, error) from error


def _of_another_version(where: object, error: Exception) -> EvaluationError:
    return EvaluationError(
        "cannot be made into a card: it is damaged, or was written by another version or program", where=where,
        value=repr(error)[:300], remedy="evaluate the autoencoder again",
    )  # fmt: skip


def autoencoder_front_matter(report: Report, *, name: str, licence: str) -> str:
    scores = report["scores"].get("autoencoder", {})
    results = {
        "task": {"type": "audio-to-audio", "name": "reconstruction"},
        "dataset": {"type": "audio", "name": f"{Path(report['settings']['source']).name}: {clips_text(report)}"},
        "metrics": [
            {"type": metric, "name": label, "value": round(scores[metric]["value"], 4)}
            for metric, label in METRIC_NAMES.items()
            if metric in scores
        ],
    }
    tags = ["audio", "music", "autoencoder", "latent-representation", "reencoder"]
    return front_matter(licence, tags=tags, more={"model-index": [{"name": name, "results": [results]}]})


def training_facts(weights: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts about the training, from the weights file and the settings beside it, one line each."""
    header = weights.get("header") or {}
    own = header.get("reencoder")
    training = own.get("training", {}) if isinstance(own, dict) else header
    facts = [*_flat(training)]
    facts += [(f"settings: {key}", value) for key, value in _flat(weights.get("run") or {})]
    return facts


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def limits(report: Report) -> list[str]:
    """Reasons against using it that follow from the numbers; each sentence has its number."""
    scores, paper = report["scores"].get("autoencoder", {}), report["paper"]
    values = {metric: scores[metric]["value"] for metric in METRIC_NAMES if metric in scores}
    found = []
    si_sdr = values.get("si_sdr")
    if si_sdr is not None and si_sdr < FOLLOWS_WAVEFORM_DB:
        found.append(
            f"It does not follow the waveform closely (SI-SDR {measured(si_sdr)} dB): do not subtract its output from "
            "the original, and do not mix the two."
        )
    far = [
        f"{METRIC_NAMES[metric]} {measured(values[metric])} against {measured(paper[metric])}"
        for metric in METRIC_NAMES
        if metric in values and metric in paper and values[metric] > FAR_FROM_PAPER * paper[metric]
    ]
    if far:
        found.append(f"It is well behind the paper's autoencoder (on other music) in {'; '.join(far)}.")
    sinc = report["scores"].get("sinc", {})
    better = [
        f"{METRIC_NAMES[metric]} {measured(sinc[metric]['value'])} against {measured(values[metric])}"
        for metric in METRIC_NAMES
        if metric in sinc
        and metric in values  # of SI-SDR more is better, of distances less
        and (sinc[metric]["value"] - values[metric]) * (1 if metric == "si_sdr" else -1) > 0
    ]
    if better:
        found.append(f"Music without its high band is nearer to the original than its output in {'; '.join(better)}.")
    if report["autoencoder"]["stereo"] == "per_channel":
        found.append("It encodes one channel at a time; stereo is two latents, and nothing ties them together.")
    rate = report["autoencoder"]["sample_rate"]
    found.append(f"It expects audio at {rate} Hz: resample everything else first.")
    clips = report["clips"]
    found.append(
        f"The figures are means over {clips['count']} clips of {clips['tracks']} tracks: other music, speech and "
        "single sounds were not measured."
    )
    return found


def measuring_commands(report: Report, *, name: str) -> list[str]:
    """The lines that measure the same again: the music, where it is the examples', and the settings that differ."""
    defaults = load_config(None, AutoencoderEvalConfig).model_dump(mode="json")
    settings = {key: value for key, value in report["settings"].items() if key in defaults}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    changed = [f"{key}={texts[key]}" for key, value in settings.items() if value != defaults[key]]
    options = [word for setting in changed for word in ("--set", setting)]
    lines = [shlex.join(["reencoder-autoencoder", "evaluate", name, *options])]
    if settings["source"] == defaults["source"]:
        folder = str(Path(settings["source"]).parent)
        lines.insert(0, shlex.join(["reencoder-cache", "fetch", "debian-music", "--out", folder]))
    return lines
