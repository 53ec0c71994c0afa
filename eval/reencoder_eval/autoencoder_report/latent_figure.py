"""Draws the diagnostics: spread and posterior, correlation, high band, tolerance of the decoder."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reencoder_eval.report.figures import BAND_COLOURS
from reencoder_pipeline.plain_text import printable

GREY, BLUE, ORANGE = BAND_COLOURS
NAMED = 24  # channels written out below the bars


def latent_figure(diagnostics: Mapping[str, Any], *, title: str) -> bytes:
    """Diagnostics as in autoencoder.json -> PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    # A "$" in an autoencoder's name is a "$".
    with matplotlib.rc_context({"font.family": "sans-serif", "text.parse_math": False}):
        figure = Figure(figsize=(12, 8.5), layout="constrained", dpi=120)
        figure.suptitle(printable(title), fontsize=12)
        (spread, correlation), (high, noise) = figure.subplots(2, 2)
        _spread(spread, diagnostics["channels"]["std"], diagnostics["posterior"])
        _correlation(figure, correlation, diagnostics["channels"])
        _high_band(high, diagnostics["high_band"])
        _noise(noise, diagnostics["noise_stft_d"])
        for axes in (spread, high, noise):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.25)
            axes.set_axisbelow(True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _spread(axes: Any, std: Sequence[float], posterior: Mapping[str, Any] | None) -> None:
    axes.bar(range(len(std)), std, width=0.8, color=BLUE, label="standard deviation of the latent")
    if posterior is not None:
        axes.plot(range(len(std)), posterior["sigma"], ".", color=ORANGE, label="posterior sigma (mean over frames)")
    axes.set(title="Spread of each channel", xlabel="channel", ylabel="latent units", xlim=(-1, len(std)))
    axes.set_ylim(0, 1.25 * max([*std, 1e-6]))  # room for the legend
    axes.legend(frameon=False, loc="upper left", fontsize=9)


def _correlation(figure: Any, axes: Any, channels: Mapping[str, Any]) -> None:
    matrix = np.array(channels["correlation"], dtype=float)
    picture = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    rank = channels["effective_rank_correlation"]
    axes.set(
        title=f"Correlation of channels (effective rank {rank:.1f} of {len(matrix)})",
        xlabel="channel",
        ylabel="channel",
    )
    figure.colorbar(picture, ax=axes, label="correlation", shrink=0.9)


def _high_band(axes: Any, high: Mapping[str, Any]) -> None:
    l1, order = np.array(high["l1"], dtype=float), high["order"]
    share = 100 * l1 / max(l1.sum(), 1e-12)
    carrying = high["carrying"]
    colours = [ORANGE if place < carrying else GREY for place in range(len(order))]
    axes.bar(range(len(order)), share[order], width=0.8, color=colours)
    named = order[:NAMED]
    axes.set_xticks(range(len(named)), named, fontsize=7, rotation=90)
    axes.set(
        title=f"Channels that carry the high band: {carrying} of {len(order)} channels hold 80 %",
        xlabel="channels in falling order, the first by number; orange: those that hold 80 %",
        ylabel="share of L1, E(x) to E(low band), %",
        xlim=(-1, len(order)),
    )


def _noise(axes: Any, pairs: Sequence[Sequence[float]]) -> None:
    sizes, distances = zip(*pairs, strict=True)
    axes.plot(sizes, distances, "o-", color=BLUE)
    for size, distance in pairs:
        if distance is not None:  # turned, for the smallest sizes lie close together
            axes.annotate(f"{distance:.2f}", (size, distance), textcoords="offset points", xytext=(0, 8), rotation=60)
    axes.set(
        title="What the decoder tolerates",
        xlabel="noise added to the latents, in standard deviations of each channel",
        ylabel="STFT-D to the original",
        xlim=(-0.03, max(sizes) + 0.05),
    )
    axes.set_ylim(0, 1.25 * max([one for one in distances if one is not None], default=1))
