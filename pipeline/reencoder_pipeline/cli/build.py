"""The commands `reencoder-cache build` and `plan`."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from reencoder_pipeline.cli.options import Config, Json, Name, Set, Source, option
from reencoder_pipeline.cli.output import finish, print_summary
from reencoder_pipeline.exit_codes import a_number, resuming
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.progress import ProgressLine, say


def build(  # noqa: PLR0917, typer reads the signature
    source: Source,
    out: Annotated[str, typer.Option(help="Where the cache goes: a folder, or a URL such as s3://bucket/cache.")],
    config: Config = None,
    set_: Set = None,
    format_: Annotated[str | None, typer.Option("--format", help="zarr or webdataset.")] = None,
    autoencoder: Name = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Encode on a Ray cluster: local, auto, or host:port.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="NUMBER/COUNT", help="Make only this part of the shards, such as 3/16, and no index."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Encode SOURCE into a latent cache. The same command again continues where the last one stopped; only new and
    changed tracks are encoded. Parts may run at once, on any machines that reach --out; the same command without --part
    then keeps what they made and writes the index."""
    from reencoder_pipeline.config import CacheConfig, load_config

    chosen = [*option("format", format_), *option("autoencoder", autoencoder)]
    settings = load_config(config, CacheConfig, [*(set_ or []), *chosen])
    from reencoder_pipeline.build.build import build_cache
    from reencoder_pipeline.build.parts import parse_part

    its_part = None if part is None else parse_part(part)
    with resuming(), ProgressLine("encoding", unit="frames", scaled=True) as report:
        result = build_cache(
            source,
            out,
            settings,
            progress=report,
            workers=settings.workers or os.cpu_count() or 1,
            say=report.say,
            ray=ray,
            part=its_part,
        )
    summary = {
        "cache": str(out),
        **({"part": part} if part else {}),
        "tracks": result.num_tracks,
        "frames": result.num_frames,
        "shards_built": result.built,
        "shards_kept": result.kept,
        "tracks_encoded": result.encoded,
        "tracks_reused": result.reused,
        "failures": len(result.failures),
        "left_out": result.left_out,
    }
    if its_part:  # the command without a part names the failures, and exits 3 for them
        print_summary(summary, as_json)
    else:
        finish(summary, result.failures, out, as_json)


def plan(  # noqa: PLR0917, typer reads the signature
    source: Source,
    config: Config = None,
    set_: Set = None,
    autoencoder: Name = None,
    calibrate: Annotated[bool, typer.Option(help="Encode a little of SOURCE to tell the time.")] = True,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=1e6, callback=a_number, help="Seconds of audio to encode for that.")
    ] = 30.0,
    rate: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1e9,
            callback=a_number,
            help="Hours of audio that one device encodes in an hour, instead of measuring.",
        ),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, max=10**6, help="Machines like this one, side by side.")] = 1,
    hours: Annotated[
        float | None,
        typer.Option(
            "--hours",
            "--hours-of-corpus",
            min=0.001,
            max=1e9,
            callback=a_number,
            help="Also the sizes of a corpus like SOURCE of so many hours.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what `build` would make and take: tracks, hours, shards, bytes, time, and the files that it cannot use."""
    from reencoder_pipeline.config import CacheConfig, load_config

    settings = load_config(config, CacheConfig, [*(set_ or []), *option("autoencoder", autoencoder)])
    from reencoder_pipeline.build.estimate import estimate, table
    from reencoder_pipeline.build.plan import plan_build, remarks

    planned = plan_build(source, settings)
    for remark in remarks(planned):
        say(remark)
    if calibrate and rate is None:
        say(f"encoding {seconds:g} s of audio to measure the rate (--no-calibrate leaves it out)")
    summary = estimate(
        planned, settings, seconds=seconds if calibrate else None, rate=rate, devices=devices, hours=hours
    )
    print(json.dumps(summary) if as_json else printable(table(summary), lines=True))
