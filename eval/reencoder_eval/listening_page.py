"""The report of a run: one HTML file with tables, chart, spectrograms and players, which needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from reencoder_eval.figures import spectrogram_pictures, stft_d_chart
from reencoder_eval.metrics import EDGE_HZ
from reencoder_eval.run_folder import (
    CHART,
    COSTS,
    FAILURES,
    REFERENCE,
    REPORT,
    RUN,
    SCORES,
    audio_path,
    read_json,
    read_rows,
)
from reencoder_eval.tables import (
    BANDS,
    COLUMNS,
    NOTHING,
    PAPER_TABLE_1,
    Summary,
    cost_texts,
    number,
    summarise,
    text_tables,
)
from reencoder_pipeline.durable import write_text
from reencoder_pipeline.errors import EvaluationError

TEMPLATES = Path(__file__).with_name("templates")


def write_report(run: Path) -> Path:
    """report.html (and the chart as a file of its own) from what the folder holds; returns the report's path.

    The audio of the listening clips is embedded as FLAC: lossy formats would cut the band that is being judged.
    """
    description = read_json(run / RUN)
    if description is None:
        raise EvaluationError("not the folder of an evaluation", where=run, remedy="run reencoder-eval CONFIG")
    rows, costs = read_rows(run / SCORES), read_json(run / COSTS)
    summary = summarise(rows)
    listening = [clip for clip in description["clips"] if clip["id"] in description["listening"]]
    chart = stft_d_chart(summary)
    write_text(run / CHART, chart)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(
        description=description,
        summary=summary,
        tables=text_tables(summary, costs),
        costs=costs,
        counts=count_texts(costs, summary),
        notes=count_notes(costs),
        high_clips=max((by["stft_d_high"].clips for by in summary.cells.values() if "stft_d_high" in by), default=0),
        chart=Markup(chart),  # our own SVG; matplotlib escapes the labels in it
        clips=[listening_clip(run, clip, rows, summary) for clip in listening],
        paper=paper_rows(),
        here=here_rows(summary, costs),
        failures=read_rows(run / FAILURES),
        split_interval=split_interval,
        edge_percent=100 * (1 - EDGE_HZ / (description["sample_rate"] / 2)),  # from the top of a spectrogram
    )
    write_text(run / REPORT, page)
    return run / REPORT


def listening_clip(
    run: Path, clip: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], summary: Summary
) -> dict[str, Any]:
    """One clip for the template: its signals, reference first, each with picture, sound and scores."""
    scored = {row["system"]: row for row in rows if row["clip"] == clip["id"]}
    labels = {REFERENCE: "Reference", **summary.labels}
    files = {name: audio_path(run, clip["id"], name, key=row["key"]) for name, row in scored.items()}
    files[REFERENCE] = audio_path(run, clip["id"], REFERENCE)
    present = [name for name in labels if name in files and files[name].is_file()]
    sounds = [soundfile.read(str(files[name]), dtype="float32", always_2d=True) for name in present]
    pictures = spectrogram_pictures([audio.mean(axis=1) for audio, _ in sounds]) if sounds else []
    signals = [
        {
            "label": labels[name],
            "picture": _data(picture, "image/webp"),
            "sound": base64.b64encode(files[name].read_bytes()).decode(),
            "scores": _score_texts(scored[name]["scores"]) if name in scored else [],
        }
        for name, picture in zip(present, pictures, strict=True)
    ]
    audio, rate = sounds[0] if sounds else ((), 1)
    return {**clip, "signals": signals, "rate": rate, "seconds": len(audio) / rate}


def paper_rows() -> list[tuple[str, ...]]:
    return [(label, f"{gflops:g}", _triple(stft), _triple(mel)) for label, gflops, stft, mel in PAPER_TABLE_1]


def here_rows(summary: Summary, costs: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """Our rows in the paper's format: GFLOPs of the module, or of the autoencoder where there is no module."""
    rows = []
    for system, label in summary.labels.items():
        module, autoencoder, _ = cost_texts(system, costs)
        cells = summary.cells[system]
        values = [[cells.get(f"{metric}_{band}") for band in BANDS] for metric in COLUMNS.values()]
        texts = [_triple([cell.mean.value if cell else None for cell in triple]) for triple in values]
        rows.append((label, autoencoder if module == NOTHING else module, *texts))
    return rows


def count_texts(costs: Mapping[str, Any] | None, summary: Summary) -> list[tuple[str, ...]]:
    """What was counted, its GFLOPs by either counter, its parameters in millions."""
    if costs is None:
        return []
    counts = {f"autoencoder, {stage}": count for stage, count in costs["autoencoder"].items()}
    counts |= {
        summary.labels[name]: cost["module"] for name, cost in costs["systems"].items() if name in summary.labels
    }
    return [
        (what, number(count["gflops"]), number(count["gflops_torch"]), number(count["parameters"] / 1e6))
        for what, count in counts.items()
        if count and count["gflops"] is not None
    ]


def count_notes(costs: Mapping[str, Any] | None) -> list[str]:
    """Why the two FLOP counters differ, where they do."""
    if costs is None:
        return []
    counts = [*costs["autoencoder"].values(), *(cost["module"] for cost in costs["systems"].values())]
    return list(dict.fromkeys(count["note"] for count in counts if count and count["note"]))


def split_interval(text: str) -> tuple[str, str]:
    """ "1.41 [1.30, 1.52]" -> the value, and the interval that is set smaller."""
    value, bracket, rest = text.partition(" [")
    return value, bracket.strip() + rest


def _triple(values: Sequence[float | None]) -> str:
    full, low, high = (number(value) for value in values)
    return f"{full} ({low} / {high})"


def _score_texts(scores: Mapping[str, float | None]) -> list[tuple[str, str]]:
    return [(name, _triple([scores.get(f"{metric}_{band}") for band in BANDS])) for name, metric in COLUMNS.items()]


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
