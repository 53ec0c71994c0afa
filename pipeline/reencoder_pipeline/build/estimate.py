"""Says what a build would make and take: tracks, hours, shards, bytes, and time by encoding a little of the corpus."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reencoder_pipeline.audio.read import middle, open_track
from reencoder_pipeline.build.plan import Plan
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.errors import AudioError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


WARM_UP_SECONDS = 1.0


def estimate(
    plan: Plan, config: CacheConfig, *, seconds: float | None, rate: float | None, devices: int, hours: float | None
) -> dict[str, Any]:
    """The plan, its sizes and its time, as JSON values.

    `seconds` of audio are encoded here to find the rate; None measures nothing. `rate` replaces that: hours of audio
    that one device encodes in an hour. `hours` adds `larger`: the sizes of a corpus like this one of so many hours.
    AudioError where not one track can be encoded.

    Example::

        estimate(plan_build(source, config), config, seconds=30, rate=None, devices=1, hours=10_000)["bytes"]
    """
    tracks = [track for job in plan.jobs for track in job.tracks]
    workers = 1 if rate is not None else config.workers or os.cpu_count() or 1
    if rate is None and seconds is not None and tracks:
        rate = encoding_rate(tracks, config, seconds=seconds)

    def sized(num_tracks: int, num_frames: int, num_shards: int) -> dict[str, Any]:
        audio_hours = float(num_frames / plan.spec.frame_rate / 3600)
        frame_bytes = plan.spec.channels * np.dtype(config.precision).itemsize * len(config.streams)
        # One worker makes a whole shard, so more workers than shards do not help.
        busy = None if rate is None else 3600 * audio_hours / (rate * max(1, min(workers * devices, num_shards)))
        counts = {"tracks": num_tracks, "hours": audio_hours, "frames": num_frames, "shards": num_shards}
        return {**counts, "bytes": num_frames * frame_bytes, "seconds": busy}

    here, larger = sized(plan.num_tracks, plan.num_frames, len(plan.jobs)), None
    if hours is not None and plan.num_frames:
        ratio = hours / here["hours"]
        num_frames = round(ratio * plan.num_frames)
        num_shards = max(1, round(num_frames / config.shard_frames))
        larger = sized(max(1, round(ratio * plan.num_tracks)), num_frames, num_shards)
    return {
        "autoencoder": plan.spec.to_dict(),
        "streams": config.streams,
        "precision": config.precision,
        "format": config.format,
        "splits": dict(Counter(track.split for track in tracks)),
        "unsuited": plan.num_unsuited,
        "unusable": list(plan.failures),
        "left_out": plan.left_out.counts,
        "warnings": list(plan.warnings),
        "workers": workers,
        "devices": devices,
        "rate": None if rate is None else rate * workers,  # hours of audio an hour, of one device
        **here,
        "larger": larger,
    }


def encoding_rate(tracks: Sequence[Track], config: CacheConfig, *, seconds: float) -> float:
    """Hours of audio that one worker encodes in an hour, measured in this process with one thread.

    The middle of one track is read, resampled and encoded as a build does it. Where it is shorter than `seconds` or
    cannot be encoded, more tracks follow. Workers side by side slow each other down a little; that is not measured.
    """
    import torch

    from reencoder_pipeline.autoencoder import load_autoencoder

    threads, done, busy, reason = torch.get_num_threads(), 0.0, 0.0, ""
    torch.set_num_threads(1)
    try:
        autoencoder = load_autoencoder(config.autoencoder)
        first = len(tracks) // 2
        for track in [*tracks[first:], *tracks[:first]]:
            try:
                if not done:  # imports and first allocations happen once
                    _encode_middle(autoencoder, track.path, config, seconds=WARM_UP_SECONDS)
                encoded, took = _encode_middle(autoencoder, track.path, config, seconds=seconds - done)
            except (AudioError, OSError, RuntimeError) as error:  # soundfile's are RuntimeErrors; a build names them
                reason = str(error)
                continue
            done, busy = done + encoded, busy + took
            if seconds - done < WARM_UP_SECONDS:
                break
    finally:
        torch.set_num_threads(threads)
    if not done:
        remedy = "give --no-calibrate to plan without a measured time"
        raise AudioError("not one track of the corpus could be encoded", value=reason, remedy=remedy)
    return done / busy


def _encode_middle(autoencoder: Autoencoder, path: Path, config: CacheConfig, *, seconds: float) -> tuple[float, float]:
    """Encode the middle of a file; returns its seconds, and the seconds that this took.

    The excerpt becomes a file of its own: a build reads what lies before it too, which counts once a track.
    """
    import soundfile

    from reencoder_pipeline.encoding.encode_tracks import encode_track
    from reencoder_pipeline.encoding.settings import EncodeSettings

    with tempfile.TemporaryDirectory() as folder:
        excerpt = Path(folder) / "excerpt.wav"
        with open_track(path, seekable=True) as file:
            used = middle(file.frames, file.samplerate, min(seconds, config.track_seconds or seconds))
            file.seek(used.start)
            begun = time.perf_counter()
            audio = file.read(used.stop - used.start, dtype="float32", always_2d=True)
            soundfile.write(excerpt, audio, file.samplerate, subtype="FLOAT")
        encoded = encode_track(autoencoder, Track("excerpt", excerpt), EncodeSettings.of(config))
        return encoded.num_samples / autoencoder.spec.sample_rate, time.perf_counter() - begun


def table(summary: Mapping[str, Any]) -> str:
    """The estimate for a person: one column, and one more for the larger corpus."""
    columns = [summary, *([summary["larger"]] if summary["larger"] else [])]
    spec, devices, rate = summary["autoencoder"], summary["devices"], summary["rate"]
    rows = [
        ("", ["this corpus", "a larger one"][: len(columns)]),
        ("tracks", [f"{one['tracks']:,}" for one in columns]),
        ("hours of audio", [f"{one['hours']:,.2f}" for one in columns]),
        ("latents", [size(one["bytes"]) for one in columns]),
        ("shards", [f"{one['shards']:,}" for one in columns]),
    ]
    if rate is not None:
        label = f"time on {devices} devices" if devices > 1 else "time"
        rows.append((label, [duration(one["seconds"]) for one in columns]))
    width = max(len(label) for label, _ in rows)
    lines = [
        f"{spec['autoencoder']}, {spec['channels']} channels at {spec['sample_rate'] / spec['hop']:.2f} Hz; "
        f"{', '.join(summary['streams'])} as {summary['precision']} in {summary['format']} shards",
        "splits: " + ", ".join(f"{name} {count}" for name, count in sorted(summary["splits"].items())),
        *(label.ljust(width) + "".join(f"  {cell:>14}" for cell in cells) for label, cells in rows),
        "time: not measured"
        if rate is None
        else f"rate: {rate:,.2f} hours of audio an hour and device ({summary['workers']} worker(s) of one thread each)",
    ]
    if summary["unsuited"]:
        lines.append(f"{summary['unsuited']} tracks left out: by their manifest they suit no task of these streams")
    lines += [f"unusable: {failure['error']}" for failure in summary["unusable"]]
    return "\n".join(lines)


def size(num_bytes: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.1f} days"
