"""Writes report.html, one self-contained file with the tables, charts and listening test of a run."""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from reencoder_eval.evaluation_folder import BALANCES, CHART, REFERENCE, REPORT, audio_path
from reencoder_eval.metrics.loudness import integrated_loudness, matching_gains
from reencoder_eval.metrics.spectral import EDGE_HZ
from reencoder_eval.report.figures import as_file, balance_chart, spectrogram_pictures, stft_d_chart
from reencoder_eval.run_contents import costs_of, description_of, finished_scores, read_failures
from reencoder_eval.systems.names import MODULES
from reencoder_eval.tables.columns import GROUPS, Column, task_of
from reencoder_eval.tables.cost_table import Costs, count_notes, module_gflops, passes_gflops
from reencoder_eval.tables.paper import PAPER_TABLES
from reencoder_eval.tables.score_tables import mean_of, text_tables
from reencoder_eval.tables.summary import Summary, summarise
from reencoder_eval.tables.text_table import NOTHING, number
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.stores.atomic import write_text

TEMPLATES = Path(__file__).parents[1] / "templates"


def write_report(run: Path) -> Path:
    """Write report.html and the charts from the files of a run folder; returns the report's path.

    The audio of the listening clips is embedded as FLAC, because lossy formats would cut the band under test.
    """
    description, rows, costs = description_of(run), finished_scores(run), costs_of(run)
    summary = summarise(rows)
    listening = [clip for clip in description["clips"] if clip["id"] in description["listening"]]
    chart, balances = stft_d_chart(summary, costs), balance_chart(rows)
    write_text(run / CHART, as_file(chart))
    if balances:
        write_text(run / BALANCES, as_file(balances))
    clips = [listening_clip(run, clip, rows, summary) for clip in listening]
    sounds = "".join(signal["sound"] for clip in clips for signal in clip["signals"])
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    template = environment.get_template("report.html.j2")
    edge_hz = description.get("low_rate", 2 * EDGE_HZ) / 2
    columns = GROUPS[summary.task][0].columns  # those that the paper also has
    page = template.render(
        description=description,
        summary=summary,
        tables=text_tables(summary, costs),
        costs=costs,
        notes=count_notes(costs),
        high_clips=max((by["stft_d_high"].clips for by in summary.cells.values() if "stft_d_high" in by), default=0),
        chart=Markup(chart),  # our own SVG; matplotlib escapes the labels in it
        balances=Markup(balances) if balances else None,
        clips=clips,
        letters=string.ascii_uppercase,
        digest=hashlib.sha256(sounds.encode()).hexdigest()[:16],  # ties the listener's stored answers to these sounds
        columns=[f"{one.title} ({one.beside_title})" if one.beside else one.title for one in columns],
        paper=[(row.label, f"{row.gflops:g}", *_texts(columns, row.values)) for row in PAPER_TABLES[summary.task]],
        here=here_rows(summary, costs),
        failures=read_failures(run),
        split_interval=split_interval,
        edge_hz=edge_hz,
        edge_percent=100 * (1 - edge_hz / (description["sample_rate"] / 2)),  # from the top of a spectrogram
    )
    write_text(run / REPORT, page)
    return run / REPORT


def _shown(value: object) -> object:
    """Removes invisible characters from every text that the template puts onto the page."""
    return printable(value, lines=True) if type(value) is str else value


def listening_clip(
    run: Path, clip: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], summary: Summary
) -> dict[str, Any]:
    """One clip for the template: its signals with the reference first, each with pictures, sound, scores and gain."""
    scored = {row["system"]: row for row in rows if row["clip"] == clip["id"]}
    labels = {REFERENCE: "Reference", **summary.labels}
    files = {name: audio_path(run, clip["id"], name, key=row["key"]) for name, row in scored.items()}
    files[REFERENCE] = audio_path(run, clip["id"], REFERENCE)
    present = [name for name in labels if name in files and files[name].is_file()]
    if not present:
        return {**clip, "signals": [], "pair": (), "rate": 1, "seconds": 0}
    sounds = [_read_audio(files[name]) for name in present]
    audio = [samples.T for samples, _ in sounds]  # (n, C) -> (C, n)
    rate = sounds[0][1]
    sides = [np.broadcast_to(signal, (2, signal.shape[1])) for signal in audio]  # a single channel plays on both
    loudness = [integrated_loudness(stereo, sample_rate=rate) for stereo in sides]
    gains = matching_gains(loudness, [float(np.abs(signal).max()) for signal in audio])
    signals = [
        {
            "system": name,
            "label": labels[name],
            "pictures": pictures,
            "sound": base64.b64encode(files[name].read_bytes()).decode(),
            "gain": gain,
            "scores": [
                *(_score_texts(scored[name]["scores"]) if name in scored else []),
                ("loudness", NOTHING if level is None else f"{level:.1f} LUFS ({20 * np.log10(gain):+z.1f}\u00a0dB)"),
            ],
        }
        for name, pictures, level, gain in zip(present, _pictures(audio), loudness, gains, strict=True)
    ]
    ours = (place for place, name in enumerate(present) if name.startswith(MODULES))
    pair = (0, next(ours, 1))  # the signals that A/B/X compares until the listener chooses others
    return {**clip, "signals": signals, "pair": pair, "rate": rate, "seconds": audio[0].shape[1] / rate}


def _read_audio(path: Path) -> tuple[np.ndarray, int]:
    """(samples, channels) and the rate."""
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        remedy = "remove the file and evaluate again"
        raise EvaluationError("the file cannot be read as audio", where=path, value=error, remedy=remedy) from None
    return np.asarray(samples), rate


def _pictures(audio: Sequence[np.ndarray]) -> list[list[tuple[str, str]]]:
    """For each signal, (channels, samples): (name, data URL) of each picture, mid and side if any signal is stereo."""
    views: dict[str, list[np.ndarray]] = {"": [signal[0] for signal in audio]}
    if any(len(signal) > 1 for signal in audio):
        views = {
            "mid": [signal.mean(axis=0) for signal in audio],
            "side": [(signal[0] - signal[-1]) / 2 for signal in audio],
        }
    drawn = iter(spectrogram_pictures([signal for view in views.values() for signal in view]))
    url = "data:image/webp;base64,"
    by_view = {name: [url + base64.b64encode(next(drawn)).decode() for _ in view] for name, view in views.items()}
    return [list(zip(by_view, pictures, strict=True)) for pictures in zip(*by_view.values(), strict=True)]


def here_rows(summary: Summary, costs: Costs | None) -> list[tuple[str, ...]]:
    """Our rows in the paper's format, with the GFLOPs of the module or, without one, of the autoencoder."""
    rows = []
    for system, label in summary.labels.items():
        gflops = module_gflops(system, costs) or passes_gflops(system, costs)
        means = {metric: mean_of(cell) for metric, cell in summary.cells[system].items()}
        rows.append((label, number(gflops), *_texts(GROUPS[summary.task][0].columns, means)))
    return rows


def split_interval(text: str) -> tuple[str, str]:
    """ "1.41 [1.30, 1.52]" -> "1.41" and "1.30, 1.52]", which the page prints in smaller type."""
    value, bracket, rest = text.partition(" [")
    return value, bracket.strip() + rest


def _texts(columns: Sequence[Column], values: Mapping[str, float | None]) -> list[str]:
    """For each column its value and, in brackets, the values beside it."""
    texts = []
    for column in columns:
        beside = " / ".join(number(values.get(metric)) for metric in column.beside)
        texts.append(number(values.get(column.metric)) + (f" ({beside})" if beside else ""))
    return texts


def _score_texts(scores: Mapping[str, float | None]) -> list[tuple[str, str]]:
    columns = GROUPS[task_of(scores)][0].columns
    return list(zip([column.title for column in columns], _texts(columns, scores), strict=True))
