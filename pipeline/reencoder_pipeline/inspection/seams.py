"""Looks for seams between segments: encodes windows of the source in one piece and compares them with the cache."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.encoding.encode import encode_stream
from reencoder_pipeline.encoding.segments import plan_segments
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.inspection.finding import Finding
from reencoder_pipeline.inspection.source_tracks import draw_windows, settings_of, track_audio, tracks_with_sources
from reencoder_pipeline.progress import Progress

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


TOLERANCE = 0.05  # largest difference, in standard deviations; float16 rounds by 0.001 near 3, by 0.002 near 6
SEAM = 2.0  # at a seam, the mean difference is more than this many times the one away from boundaries
NEAREST = 4  # frames on each side that count as at a boundary; the autoencoder's context if that is more

Errors = NDArray[np.float64]


def check_edges(
    cache: LatentCache,
    autoencoder: Autoencoder,
    source: Path,
    *,
    samples: int,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> list[Finding]:
    """Compare `samples` seeded windows with the cache. Each is longer than a segment, so it contains a boundary.

    Each window is encoded in one piece, from streams made of the whole track, with twice the context the autoencoder
    declares (in case it declares too little). A note per stream states the difference at boundaries and away from them.
    For a local autoencoder, more than rounding is damage; for others, only a seam counts, as a warning.
    """
    findings, paths = tracks_with_sources(cache, source)
    settings, remarks = settings_of(cache)
    segment_frames = cache.spec.frames_in(settings.segment_seconds)
    findings += remarks
    margin = 2 * _reach(autoencoder.context)
    windows = draw_windows(
        [track for track in cache.tracks if track.id in paths],
        length=segment_frames + 2 * margin,
        samples=samples,
        random=np.random.default_rng(seed),
    )
    at: defaultdict[str, list[Errors]] = defaultdict(list)
    away: defaultdict[str, list[Errors]] = defaultdict(list)
    done, total = 0, sum(stop - start for _, spans in windows for start, stop in spans)
    for track, spans in windows:
        try:
            audio = track_audio(paths[track.id], track, cache, track_seconds=settings.track_seconds)
        except (AudioError, OSError) as error:
            findings.append(Finding("warning", "edges", f"{track.id}: not compared: {error}", shard=track.shard))
            continue
        near = near_boundaries(track.num_frames, segment_frames=segment_frames, context=autoencoder.context)
        for stream in cache.streams:
            waveform = make_stream(
                stream,
                audio,
                sample_rate=cache.spec.sample_rate,
                low_band_rate=cache.low_band["rate"],
                resampler=cache.low_band["resampler"],
            )
            cached, scales = cache.read(track, stream).astype(np.float64), cache.scales([track], stream)
            # Half a step of int8, or of rounded mantissas, is not an error of encoding.
            rounding = np.zeros_like(cached) if scales is None else np.broadcast_to(scales[0] / 2, cached.shape)
            if cache.keep_bits is not None:
                rounding = np.abs(cached) / 2 ** (cache.keep_bits + 1)
            for start, stop in spans:
                first, last = start + margin if start else 0, stop - margin if stop < track.num_frames else stop
                piece = waveform[:, start * cache.spec.hop : stop * cache.spec.hop]
                whole = encode_stream(autoencoder, piece, segment_frames=stop - start)[first - start : last - start]
                errors = np.abs(cached[first:last] - whole) - rounding[first:last]
                errors = np.maximum(errors, 0) / cache.statistics[stream].scale
                at[stream].append(errors[near[first:last]])
                away[stream].append(errors[~near[first:last]])
        done += sum(stop - start for start, stop in spans)
        progress(done, total)
    for stream in at:
        findings += judge(stream, np.concatenate(at[stream]), np.concatenate(away[stream]), local=autoencoder.local)
    return findings


def judge(stream: str, at: Errors, away: Errors, *, local: bool) -> list[Finding]:
    """Judge errors (frames, channels), in standard deviations, at segment boundaries and away from them."""
    numbers = {
        "frames_at": len(at),
        "mean_at": float(at.mean()) if at.size else 0.0,
        "largest_at": float(at.max(initial=0)),
        "frames_away": len(away),
        "mean_away": float(away.mean()) if away.size else 0.0,
        "largest_away": float(away.max(initial=0)),
    }
    text = (
        f"{stream}: differs from one piece by {numbers['mean_at']:.2g} (at most {numbers['largest_at']:.2g}) standard "
        f"deviations at segment boundaries, {numbers['mean_away']:.2g} ({numbers['largest_away']:.2g}) away from them; "
        f"{len(at)} and {len(away)} frames"
    )
    found = [Finding("note", "edges", text, measured=numbers)]
    if numbers["largest_at"] > TOLERANCE and numbers["mean_at"] > SEAM * numbers["mean_away"]:
        problem = (
            f"{stream}: a seam at segment boundaries ({numbers['mean_at']:.2g}, elsewhere {numbers['mean_away']:.2g})"
        )
        found.append(Finding("damage" if local else "warning", "edges", problem, measured=numbers))
    if local and numbers["largest_away"] > TOLERANCE:
        problem = f"{stream}: this autoencoder makes other latents of this source: {numbers['largest_away']:.2g} away"
        found.append(Finding("damage", "edges", problem, measured=numbers))
    return found


def near_boundaries(num_frames: int, *, segment_frames: int, context: int) -> NDArray[np.bool_]:
    """(num_frames,): True for frames near a boundary between two segments of a track."""
    near, reach = np.zeros(num_frames, dtype=bool), _reach(context)
    for segment in plan_segments(num_frames, segment_frames=segment_frames, context=context):
        if segment.keep_start:
            near[max(0, segment.keep_start - reach) : segment.keep_start + reach] = True
    return near


def _reach(context: int) -> int:
    return max(NEAREST, context)
