"""autoencoder.json as text tables: scores beside sinc and the paper, sizes, and the diagnostics in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reencoder_eval.autoencoder_report.readings import NOT_MEASURED, measured, readings
from reencoder_eval.tables.text_table import NOTHING, TextTable

METRIC_NAMES = {
    "stft_d_full": "STFT-D",
    "stft_d_low": "STFT-D, low band",
    "stft_d_high": "STFT-D, high band",
    "mel_d_full": "mel-D",
    "mel_d_low": "mel-D, low band",
    "mel_d_high": "mel-D, high band",
    "si_sdr": "SI-SDR, dB",
}

Report = Mapping[str, Any]


def report_tables(report: Report) -> list[TextTable]:
    """The tables that `reencoder-autoencoder evaluate` prints."""
    tables = [score_table(report), size_table(report)]
    if report["diagnostics"] is not None:
        tables.append(diagnostics_table(report))
    return tables


def score_table(report: Report) -> TextTable:
    """Mean and 95 % interval of every metric: the autoencoder, the low band itself (sinc), the paper's autoencoder."""
    scores, paper = report["scores"], report["paper"]
    rows = tuple(
        (
            label,
            with_interval(scores.get("autoencoder", {}).get(metric)),
            with_interval(scores.get("sinc", {}).get(metric)),
            measured(paper[metric]) if metric in paper else NOTHING,
        )
        for metric, label in METRIC_NAMES.items()
    )
    columns = ("mean [95 %]", report["name"], "input (sinc)", "paper's autoencoder, on its own music")
    return TextTable(f"{clips_text(report)}; distances: smaller is better", columns, rows)


def size_table(report: Report) -> TextTable:
    size = report["size"]
    halves = size["encode_gflops"], size["decode_gflops"]
    total = None if None in halves else sum(halves)
    rows = (
        (
            "parameters, M",
            *(millions(size[key]) for key in ("encoder_parameters", "decoder_parameters", "parameters")),
            NOTHING,
        ),
        (
            "GFLOPs per second of audio (2 per multiply-add)",
            *(measured(value) for value in (*halves, total)),
            measured(report["paper"]["gflops"], 0),
        ),
    )
    return TextTable(latents_text(report), ("size", "encoder", "decoder", "both", "paper"), rows)


def diagnostics_table(report: Report) -> TextTable:
    diagnostics = report["diagnostics"]
    seconds = diagnostics["samples"] / report["autoencoder"]["sample_rate"]
    title = f"Latents of {len(diagnostics['clips'])} of the clips, {seconds:.1f} s each; median (range) over channels"
    rows = tuple((one.name, one.value, one.meaning) for one in readings(diagnostics))
    return TextTable(title, ("latents", "value", "what it is"), rows)


def clips_text(report: Report) -> str:
    clips, settings = report["clips"], report["settings"]
    split = f" of the {settings['split']} split" if settings["split"] else ""
    text = f"{clips['count']} clips of {settings['clip_seconds']:g} s from {clips['tracks']} tracks{split}"
    return text + (f"; {clips['silent']} left out as silent" if clips["silent"] else "")


def latents_text(report: Report) -> str:
    spec = report["autoencoder"]
    seen = f"context {spec['context']} frames ({spec['context'] / spec['frame_rate']:.2f} s) on each side"
    if not spec["local"]:
        seen = "a frame depends on the whole piece"
    return f"{spec['channels']} channels at {spec['frame_rate']:.2f} Hz, {spec['sample_rate']} Hz audio; {seen}"


def with_interval(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return NOT_MEASURED
    return f"{measured(cell['value'])} [{measured(cell['low'])}, {measured(cell['high'])}]"


def millions(count: int | None) -> str:
    return NOT_MEASURED if count is None else f"{count / 1e6:.2f}"
