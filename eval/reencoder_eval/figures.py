"""Pictures of a run: spectrograms, and bars of STFT-D in the manner of the paper's figure 2."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from reencoder_eval.tables import BANDS, Summary

RANGE_DB = 90.0
FFT, PICTURE = 2048, (520, 320)  # samples; width and height in pixels
BAND_COLOURS = ("#7d8794", "#4a97c2", "#dd8533")  # full, low, high: legible on white and on black
THICKNESS = 0.27
INK = "#010203"  # stands for the colour of the text around the picture


def log_spectrogram(signal: np.ndarray) -> np.ndarray:
    """(samples,) -> (FFT / 2 + 1, columns) in dB, a Hann window of FFT samples for each column of the picture."""
    starts = np.linspace(0, max(len(signal) - FFT, 0), PICTURE[0]).astype(int)
    padded = np.pad(signal, (0, max(FFT - len(signal), 0)))
    frames = padded[starts[:, None] + np.arange(FFT)] * np.hanning(FFT)
    return 10 * np.log10(np.maximum(np.abs(np.fft.rfft(frames)).T ** 2, 1e-12))  # (columns, bins) -> (bins, columns)


def spectrogram_pictures(signals: Sequence[np.ndarray]) -> list[bytes]:
    """One WebP per signal, low frequencies at the bottom, all on one scale below the loudest point of any."""
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


def stft_d_chart(summary: Summary) -> str:
    """SVG: mean STFT-D of every system in the full, low and high band, with 95 % intervals. Its ink is the page's."""
    import matplotlib
    from matplotlib.figure import Figure

    systems = list(summary.labels)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stft-d", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 0.62 * len(systems) + 0.9), layout="constrained")
        axes = figure.subplots()
        for number, band in enumerate(BANDS):
            cells = {row: summary.cells[system].get(f"stft_d_{band}") for row, system in enumerate(systems)}
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
                label=f"{band} band" if band != "full" else "full",
            )
        axes.set_yticks(range(len(systems)), [summary.labels[system] for system in systems], color=INK)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("STFT-D, mean and 95 % interval (smaller is better)", color=INK)
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
        axes.grid(axis="x", color=INK, alpha=0.15)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(BANDS))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
