"""Draws a run: spectrograms, bars of STFT-D (as the paper's figure 2), and stereo balance (as its figure 3)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reencoder_eval.systems.names import LAMBDA
from reencoder_eval.tables.bootstrap import correlations
from reencoder_eval.tables.columns import BALANCE
from reencoder_eval.tables.cost_table import Costs, module_gflops, passes_gflops
from reencoder_eval.tables.summary import Summary
from reencoder_pipeline.plain_text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANGE_DB = 90.0
FFT, PICTURE = 2048, (520, 320)  # samples; width and height in pixels
BAND_COLOURS = ("#7d8794", "#4a97c2", "#dd8533")  # legible on white and on black
THICKNESS = 0.27
CHART_METRICS = {
    "bwe": {"stft_d_full": "full", "stft_d_low": "low band", "stft_d_high": "high band"},
    "m2s": {"stft_d_left": "left", "stft_d_right": "right", "stft_d_side": "side"},
}
LONGEST_LABEL = 80  # characters
INK = "#010203"  # replaced by currentColor, the colour of the text around the picture


def log_spectrogram(signal: np.ndarray) -> np.ndarray:
    """(samples,) -> (FFT / 2 + 1, columns) in dB, one Hann window of FFT samples for each column of the picture."""
    starts = np.linspace(0, max(len(signal) - FFT, 0), PICTURE[0]).astype(int)
    padded = np.pad(signal, (0, max(FFT - len(signal), 0)))
    frames = padded[starts[:, None] + np.arange(FFT)] * np.hanning(FFT)
    return 10 * np.log10(np.maximum(np.abs(np.fft.rfft(frames)).T ** 2, 1e-12))  # (columns, bins) -> (bins, columns)


def spectrogram_pictures(signals: Sequence[np.ndarray]) -> list[bytes]:
    """One WebP per signal, low frequencies at the bottom, all on one scale, whose top is the loudest point."""
    from matplotlib import colormaps
    from PIL import Image

    spectra = [log_spectrogram(signal) for signal in signals]
    top = max(float(spectrum.max()) for spectrum in spectra)
    pictures = []
    for spectrum in spectra:
        shade = np.clip((spectrum - top) / RANGE_DB + 1, 0, 1)[::-1]
        pixels = (colormaps["magma"](shade)[..., :3] * 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize(PICTURE, Image.Resampling.BOX).save(buffer, "WEBP", quality=80)
        pictures.append(buffer.getvalue())
    return pictures


def stft_d_chart(summary: Summary, costs: Costs | None = None) -> str:
    """SVG after the paper's figure 2: mean STFT-D of every system with 95 % intervals.

    bwe shows full, low and high band; m2s left, right and side. With costs, a second panel shows each system's
    GFLOPs per second of audio, or the autoencoder's if the system is only that.
    """
    from matplotlib.figure import Figure

    systems, metrics = list(summary.labels), CHART_METRICS[summary.task]
    gflops = [module_gflops(system, costs) or passes_gflops(system, costs) for system in systems]
    with _our_style("stft-d"):
        figure = Figure(figsize=(9, 0.62 * len(systems) + 0.9), layout="constrained")
        panels = [2.6, 1] if any(gflops) else [1]
        axes, *beside = np.atleast_1d(figure.subplots(1, len(panels), sharey=True, width_ratios=panels))
        for number, (metric, label) in enumerate(metrics.items()):
            cells = {row: summary.cells[system].get(metric) for row, system in enumerate(systems)}
            means = {row + (number - 1) * THICKNESS: cell.mean for row, cell in cells.items() if cell is not None}
            axes.barh(
                list(means),
                [mean.value for mean in means.values()],
                THICKNESS * 0.9,
                xerr=[
                    [mean.value - mean.low for mean in means.values()],
                    [mean.high - mean.value for mean in means.values()],
                ],
                color=BAND_COLOURS[number],
                ecolor=INK,
                error_kw={"elinewidth": 1},
                label=label,
            )
        axes.set_yticks(range(len(systems)), [_label(summary.labels[system]) for system in systems], color=INK)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("STFT-D, mean and 95 % interval (smaller is better)", color=INK)
        axes.legend(frameon=False, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(metrics))
        for panel in beside:
            known = [(row, value) for row, value in enumerate(gflops) if value]
            panel.barh(*zip(*known, strict=True), THICKNESS, color=INK, alpha=0.45)
            for row, value in known:
                panel.annotate(f" {value:.3g}", (value, row), va="center", fontsize=8, color=INK)
            panel.set_xscale("log")
            panel.minorticks_off()  # their labels would overlap within a decade
            panel.set_xlim(min(value for _, value in known) / 2, 4 * max(value for _, value in known))
            panel.set_xlabel("GFLOPs per second", color=INK)
        for panel in (axes, *beside):
            _plain_axes(panel, grid="x")
        return _svg(figure)


def balance_chart(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """SVG after the paper's figure 3 for the first module with conditions; None if no row has a lambda.

    Each lambda has a panel: log(E_left / E_right) of the output over that of the reference, with Pearson's correlation.
    """
    from matplotlib.figure import Figure

    points: dict[str, list[list[float]]] = {}
    for row in rows:
        pair = [row["scores"].get(name) for name in BALANCE]
        if LAMBDA in row["system"] and None not in pair:
            points.setdefault(row["system"], []).append(pair)
    if not points:
        return None
    module = next(iter(points)).rpartition(LAMBDA)[0]
    panels = {name.rpartition(LAMBDA)[2]: values for name, values in points.items() if name.startswith(module + LAMBDA)}
    with _our_style("balance"):
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharex=True, sharey=True))
        for panel, share in zip(axes, sorted(panels, key=float), strict=True):
            output, reference = np.array(panels[share]).T
            reach = 1.05 * max(np.abs(reference).max(), 0.1)
            panel.plot([-reach, reach], [-reach, reach], color=INK, alpha=0.25, linewidth=1)
            panel.scatter(reference, output, s=12, color=BAND_COLOURS[1], alpha=0.7, edgecolors="none")
            (r,) = correlations(output, reference, np.ones((1, len(output))))
            panel.set_title(f"λ = {share}\nr = {r:.2f}", color=INK, fontsize=10)
            _plain_axes(panel, grid="both")
        figure.supxlabel("reference, log(E left / E right)", color=INK, fontsize=10)
        axes[0].set_ylabel("output", color=INK)
        return _svg(figure)


def _label(text: str) -> str:
    """The label on one line, short enough to leave room for the bars."""
    line = printable(text)
    return line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…"


def _our_style(salt: str) -> AbstractContextManager[None]:
    import matplotlib

    # text.parse_math: a "$" in a label is printed as it is.
    return matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "text.parse_math": False}
    )


def _plain_axes(axes: Any, *, grid: Literal["x", "both"]) -> None:
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis=grid, color=INK, alpha=0.15)
    axes.set_axisbelow(True)


def as_file(svg: str) -> str:
    """Gives an SVG that uses the colour of the surrounding text a colour of its own, for a file by itself."""
    return svg.replace("<svg ", f'<svg color="{BAND_COLOURS[0]}" ', 1)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
