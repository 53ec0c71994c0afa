"""What a build would do and take: sizes from its plan, time from a calibration. As numbers, and as a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from reencoder_pipeline.build.build import Plan
from reencoder_pipeline.build.calibration import calibrate
from reencoder_pipeline.build.sizes import Assumptions, Scale, scale
from reencoder_pipeline.config import CacheConfig


def dry_run(
    plan: Plan,
    config: CacheConfig,
    *,
    calibration_seconds: float | None,
    rate: float | None,
    devices: int,
    hours_of_corpus: float | None,
    assumptions: Assumptions,
    seed: int = 0,
) -> dict[str, Any]:
    """The plan as a program wants it. `calibration_seconds`: None for no calibration; `rate` stands in for one: hours
    of audio that a device encodes in an hour. `hours_of_corpus`: the same once more for a corpus like this one of so
    many hours."""
    tracks = [track for job in plan.jobs for track in job.tracks]
    workers, worker_rate, calibration = 1, rate, None
    if rate is None:
        workers = config.workers or os.cpu_count() or 1
        if calibration_seconds is not None and tracks:
            # As in a build: no more workers than shards.
            side_by_side = min(workers, len(plan.jobs)) if hours_of_corpus is None else workers
            calibration = calibrate(tracks, config, seconds=calibration_seconds, workers=side_by_side, seed=seed)
            worker_rate = calibration.worker_rate

    def sized(num_tracks: int, num_frames: int, num_shards: int | None) -> Scale:
        return scale(
            plan.spec,
            config,
            num_tracks=num_tracks,
            num_frames=num_frames,
            num_shards=num_shards,
            worker_rate=worker_rate,
            workers=workers,
            devices=devices,
            start_seconds=calibration.start_seconds if calibration else 0.0,
            assumptions=assumptions,
        )

    here = sized(plan.num_tracks, plan.num_frames, len(plan.jobs))
    larger = None
    if hours_of_corpus is not None and plan.num_frames:
        ratio = hours_of_corpus / here.hours
        larger = sized(max(1, round(ratio * plan.num_tracks)), round(ratio * plan.num_frames), None)
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
        "rate": None if worker_rate is None else worker_rate * workers,  # hours of audio an hour, of one device
        "calibration": asdict(calibration) if calibration else None,
        "assumptions": assumptions.model_dump(),
        **asdict(here),
        "larger": None if larger is None else asdict(larger),
    }


def dry_run_table(summary: Mapping[str, Any]) -> str:
    """The same for a person: one column, and one more for the larger corpus."""
    columns = [summary, *([summary["larger"]] if summary["larger"] else [])]
    spec, devices, assumed = summary["autoencoder"], summary["devices"], summary["assumptions"]
    rows = [
        ("", ["this corpus", "a larger one"][: len(columns)]),
        ("tracks", [f"{one['tracks']:,}" for one in columns]),
        ("hours of audio", [f"{one['hours']:,.2f}" for one in columns]),
        ("latents", [size(one["bytes"]) for one in columns]),
        ("  USD a month", [money(one["usd"]["storage_a_month"]) for one in columns]),
        ("shards", [f"{one['shards']:,}" for one in columns]),
        ("objects", [f"{one['objects']:,}" for one in columns]),
    ]
    if summary["rate"] is not None:
        rows += [
            (f"time on {devices} devices" if devices > 1 else "time", [duration(one["seconds"]) for one in columns]),
            ("device hours", [f"{one['device_hours']:,.2f}" for one in columns]),
            ("  USD", [money(one["usd"]["encoding"]) for one in columns]),
        ]
    for label, name in (
        ("requests to write it", "put_requests"),
        ("requests of a training, cache copied once", "get_requests"),
        ("requests of a training, each window fetched", "window_requests"),
    ):
        rows += [
            (label, [f"{one[name]:,}" for one in columns]),
            ("  USD", [money(one["usd"][name]) for one in columns]),
        ]
    label_width = max(len(label) for label, _ in rows)
    width = max(len(cell) for _, cells in rows for cell in cells)
    table = [label.ljust(label_width) + "".join(f"  {cell:>{width}}" for cell in cells) for label, cells in rows]
    lines = [
        f"{spec['autoencoder']}, {spec['channels']} channels at {spec['sample_rate'] / spec['hop']:.2f} Hz; "
        f"{', '.join(summary['streams'])} as {summary['precision']} in {summary['format']} shards",
        "splits: " + ", ".join(f"{name} {count}" for name, count in sorted(summary["splits"].items())),
        *table,
        _how_fast(summary),
        "assumed: " + ", ".join(f"{name.replace('_', ' ')} {value:,g}" for name, value in assumed.items()),
    ]
    if summary["unsuited"]:
        lines.append(f"{summary['unsuited']} tracks left out: by their manifest they suit no task of these streams")
    lines += [f"unusable: {failure['error']}" for failure in summary["unusable"]]
    return "\n".join(lines)


def _how_fast(summary: Mapping[str, Any]) -> str:
    one = summary["calibration"]
    if one is None:
        return "time: not measured" if summary["rate"] is None else f"rate: {summary['rate']:g} hours an hour, as given"
    return (
        f"measured: {summary['rate']:.2f} hours of audio an hour by {summary['workers']} workers (one thread each), "
        f"from {one['excerpts']} excerpts, {one['audio_seconds']:.0f} s of audio, in {one['elapsed_seconds']:.0f} s "
        f"with {one['workers']} side by side; {one['preparing_share']:.0%} of it reading and resampling"
    )


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


def money(usd: float) -> str:
    return f"{usd:,.2f}" if usd >= 0.01 or usd == 0 else "< 0.01"
