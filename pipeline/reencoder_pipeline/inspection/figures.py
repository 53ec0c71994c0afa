"""Draws a cache as three PNG files: its corpus, its channels, and the distribution of its latents."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reencoder_pipeline.audio.bandwidth import SIDE_MID_LIMIT_DB
from reencoder_pipeline.audio.survey import BWE_LOWEST_BANDWIDTH, M2S_SIDE_MID_DB
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.corpora.corpus import SPLITS
from reencoder_pipeline.inspection.measurements import HISTOGRAM_EDGES
from reencoder_pipeline.inspection.summary import seconds_of
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.stores.atomic import write_whole
from reencoder_pipeline.stores.own_folder import require_own_file
from reencoder_pipeline.tasks import TASKS

MADE_BY = "reencoder-cache inspect"  # written into the pictures, so that only they are overwritten
COLOURS = ("#3a6ea5", "#dd8533", "#4f9d69", "#a0558e", "#7d8794")
MEAN_L1 = math.sqrt(2 / math.pi)
STYLE: Any = {
    **{"font.family": "sans-serif", "font.size": 9, "text.parse_math": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid.axis": "y"},
    **{"axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8},
}
SIDE_MID_SHOWN_DB = -60.0  # lower levels are practically mono, and are drawn here


def draw(cache: LatentCache, measured: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write corpus.png, channels.png and latents.png. ConfigError if another program's file has one of these names.

    `measured` is the result of `measure`.
    """
    import matplotlib

    paths = [folder / f"{name}.png" for name in ("corpus", "channels", "latents")]
    for path in paths:
        require_own_file(path, holds=MADE_BY.encode(), remedy="choose another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figures = _corpus(cache), _channels(cache, measured), _latents(cache, measured)
        for path, figure in zip(paths, figures, strict=True):
            content = io.BytesIO()
            figure.savefig(content, format="png", metadata={"Software": MADE_BY})
            write_whole(path, content.getbuffer())
    return paths


def _figure(title: str, rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=120)
    figure.suptitle(title, fontsize=12)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _title(cache: LatentCache) -> str:
    hours = sum(seconds_of(cache)) / 3600
    name = cache.origin.rstrip("/").rpartition("/")[2]
    title = f"{name}: {len(cache.tracks):,} tracks, {hours:,.3g} hours; latents of {cache.spec.autoencoder}"
    return printable(title)


# The corpus


def _corpus(cache: LatentCache) -> Any:
    figure, ((lengths, hours), (bandwidth, width)) = _figure(_title(cache), 2, 2, size=(12, 7.5))
    seconds = seconds_of(cache)
    _lengths(lengths, seconds)
    _hours(hours, cache)
    rate = cache.spec.sample_rate
    kilohertz = [None if track.bandwidth_hz is None else track.bandwidth_hz / 1000 for track in cache.tracks]
    _weighted(bandwidth, cache, kilohertz, np.linspace(0, rate / 2000, 45), legend="upper left")
    bandwidth.axvline(BWE_LOWEST_BANDWIDTH / 1000, color="black", linewidth=1, linestyle="--")
    bandwidth.annotate(
        " enough for bwe", (BWE_LOWEST_BANDWIDTH / 1000, 0.96), xycoords=("data", "axes fraction"), fontsize=8
    )
    bandwidth.set(title="Effective bandwidth", xlabel="kHz", ylabel="hours of audio", xlim=(0, rate / 2000))
    sides = [track.side_mid_db for track in cache.tracks]
    levels = [None if side is None else float(np.clip(side, SIDE_MID_SHOWN_DB, 20)) for side in sides]
    _weighted(width, cache, levels, np.linspace(SIDE_MID_SHOWN_DB, 20, 41), legend="upper right")
    width.axvspan(*M2S_SIDE_MID_DB, color="black", alpha=0.06, linewidth=0)
    width.annotate("enough for m2s", (M2S_SIDE_MID_DB[0] + 1, 0.96), xycoords=("data", "axes fraction"), fontsize=8)
    mono = sum(side == -SIDE_MID_LIMIT_DB for side in sides)
    width.set(
        title="Level of the side against the middle" + (f" ({mono} tracks are mono)" if mono else ""),
        xlabel="side / mid, dB" + (f" (at {SIDE_MID_SHOWN_DB:.0f}: that or less)" if mono else ""),
        ylabel="hours of audio",
        xlim=(min(M2S_SIDE_MID_DB[0] - 4, min((level - 1 for level in levels if level is not None), default=0)), 20),
    )
    return figure


def _lengths(axes: Any, seconds: Sequence[float]) -> None:
    unit, factor = ("minutes", 60) if max(seconds) > 120 else ("seconds", 1)
    lengths = np.array(seconds) / factor
    axes.hist(lengths, bins=np.linspace(0, lengths.max() * 1.001, 31), color=COLOURS[0])
    median = float(np.median(lengths))
    axes.axvline(median, color="black", linewidth=1, linestyle="--")
    axes.annotate(f" median {median:.3g}", (median, 0.96), xycoords=("data", "axes fraction"), fontsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(title="Length of tracks", xlabel=unit, ylabel="tracks")


def _weighted(axes: Any, cache: LatentCache, values: Sequence[float | None], bins: Any, *, legend: str) -> None:
    """Draw hours of audio, stacked by split; tracks whose value is unknown are left out."""
    tracks = list(zip(cache.tracks, values, seconds_of(cache), strict=True))
    known = {
        split: [
            (value, seconds / 3600) for track, value, seconds in tracks if track.split == split and value is not None
        ]
        for split in SPLITS
    }
    splits = [split for split in SPLITS if known[split]]
    if not splits:
        axes.annotate("not known", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    axes.hist(
        [[value for value, _ in known[split]] for split in splits],
        bins=bins,
        weights=[[hours for _, hours in known[split]] for split in splits],
        stacked=True,
        color=[COLOURS[SPLITS.index(split)] for split in splits],
        label=splits,
    )
    axes.legend(loc=legend)


def _hours(axes: Any, cache: LatentCache) -> None:
    hours: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for track, seconds in zip(cache.tracks, seconds_of(cache), strict=True):
        for task in ("all", *track.tasks):
            hours[task][track.split] += seconds / 3600
    tasks = sorted(hours)
    for number, split in enumerate(SPLITS):
        if not any(track.split == split for track in cache.tracks):
            continue
        places = np.arange(len(tasks)) + (number - 1) * 0.27
        bars = axes.bar(places, [hours[task][split] for task in tasks], 0.25, color=COLOURS[number], label=split)
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set(title="Hours by task and split (a track can serve both)", ylabel="hours of audio")
    axes.margins(y=0.12)
    axes.legend()


# The channels


def _channels(cache: LatentCache, measured: Mapping[str, Any]) -> Any:
    distances = measured["distance"]
    rows = 3 if distances else 2
    figure, panels = _figure(_title(cache), rows, 1, size=(12, 3.2 * rows))
    channels = np.arange(cache.spec.channels)
    means, deviations, *gaps = panels[:, 0]
    for (stream, one), colour in zip(cache.statistics.items(), COLOURS, strict=False):
        means.plot(channels, one.mean, ".-", color=colour, linewidth=0.7, markersize=4, label=stream)
        deviations.plot(channels, one.std, ".-", color=colour, linewidth=0.7, markersize=4, label=stream)
    means.axhline(0, color="black", linewidth=0.8)
    means.set(title="Mean of each channel (train split)", ylabel="latent units")
    deviations.set(title="Standard deviation of each channel (train split)", ylabel="latent units", ylim=(0, None))
    for axes in gaps:
        width = 0.8 / len(distances)
        for number, (task, values) in enumerate(distances.items()):
            places = channels + (number - (len(distances) - 1) / 2) * width
            axes.bar(
                places,
                values,
                width,
                color=COLOURS[number],
                label=f"{task}: {_route(task)}, mean {np.mean(values):.2f}",
            )
        axes.axhline(MEAN_L1, color="black", linewidth=0.8, linestyle="--", label="predicting the mean, if Gaussian")
        axes.set(title="What a module has to learn: mean |target - input|", ylabel="deviations of the target")
        axes.set_ylim(0, 1.3 * max(MEAN_L1, *(max(values) for values in distances.values())))
    for axes in panels[:, 0]:
        axes.set(xlabel="channel", xlim=(-1, len(channels)))
        axes.legend(ncols=5, loc="upper left")
        axes.margins(y=0.2)
    return figure


def _route(task: str) -> str:
    return f"{' and '.join(TASKS[task].inputs)} to {' and '.join(TASKS[task].targets)}"


# The latents


def _latents(cache: LatentCache, measured: Mapping[str, Any]) -> Any:
    windows, length = measured["windows"], measured["window_frames"]
    title = f"{_title(cache)}\n{windows} windows of {length} frames, normalised by the cache's statistics"
    figure, ((shape, time), (correlation, strongest)) = _figure(title, 2, 2, size=(12, 9))
    _shape(shape, measured["streams"])
    _time(time, measured["streams"], frame_rate=float(cache.spec.frame_rate))
    stream = "mono" if "mono" in cache.streams else cache.streams[0]
    matrix = np.array(measured["streams"][stream]["correlation"])
    correlation.grid(False)
    picture = correlation.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    correlation.set(title=f"Correlation between channels of {stream}", xlabel="channel", ylabel="channel")
    figure.colorbar(picture, ax=correlation, label="correlation", shrink=0.9)
    _off_diagonal(strongest, measured["streams"])
    return figure


def _shape(axes: Any, streams: Mapping[str, Any]) -> None:
    middles = (HISTOGRAM_EDGES[1:] + HISTOGRAM_EDGES[:-1]) / 2
    width = HISTOGRAM_EDGES[1] - HISTOGRAM_EDGES[0]
    smallest = 1.0
    for (stream, one), colour in zip(streams.items(), COLOURS, strict=False):
        density = np.array(one["histogram"]) / one["values"] / width
        smallest = min(smallest, float(density[density > 0].min(initial=1.0)))
        # Leave a gap at zero, because the axis is logarithmic.
        axes.step(
            middles, np.where(density > 0, density, np.nan), where="mid", color=colour, linewidth=1.2, label=stream
        )
    gauss = np.exp(-np.square(middles) / 2) / math.sqrt(2 * math.pi)
    axes.plot(middles, gauss, "--", color="black", linewidth=1, label="normal distribution")
    axes.set_yscale("log")
    axes.set_ylim(smallest / 2, 4)
    edge = float(HISTOGRAM_EDGES[-1])
    axes.set(title="Values of all channels", xlabel="standard deviations", ylabel="density", xlim=(-edge, edge))
    axes.legend(loc="upper left")
    axes.grid(True, axis="both")


def _time(axes: Any, streams: Mapping[str, Any], *, frame_rate: float) -> None:
    for number, ((stream, one), colour) in enumerate(zip(streams.items(), COLOURS, strict=False)):
        curve = one["autocorrelation"]
        lags = np.arange(len(curve["median"]))
        axes.plot(lags, curve["median"], ".-", color=colour, linewidth=1, markersize=4, label=stream)
        if number == 0:
            shade = f"{stream}, 10 to 90 % of the channels"
            axes.fill_between(lags, curve["p10"], curve["p90"], color=colour, alpha=0.15, linewidth=0, label=shade)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(
        title="Autocorrelation in time, median over channels",
        xlabel=f"lag, frames of {1000 / frame_rate:.1f} ms",
        ylabel="correlation",
    )
    axes.legend()


def _off_diagonal(axes: Any, streams: Mapping[str, Any]) -> None:
    """Draw the correlations between channels, from the strongest pair down."""
    for (stream, one), colour in zip(streams.items(), COLOURS, strict=False):
        matrix = np.abs(np.array(one["correlation"]))
        pairs = np.sort(matrix[np.triu_indices(len(matrix), k=1)])[::-1]
        if pairs.size:
            axes.plot(np.arange(1, len(pairs) + 1), pairs, color=colour, linewidth=1.2, label=stream)
    axes.set_xscale("log")
    axes.set(
        title="Correlation between channels, strongest pairs first",
        xlabel="pairs of channels",
        ylabel="|correlation|",
        ylim=(0, 1),
    )
    axes.legend()
    axes.grid(True, axis="both")
