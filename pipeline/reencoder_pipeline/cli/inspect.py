"""The commands `reencoder-cache inspect` and `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reencoder_pipeline.cli.options import Json, Place
from reencoder_pipeline.exit_codes import SOME_FAILED
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.progress import ProgressLine, say


def inspect(  # noqa: PLR0917, typer reads the signature
    cache: Place,
    tracks: Annotated[bool, typer.Option(help="List every track.")] = False,
    measure: Annotated[bool, typer.Option(help="Also measure the latents, in a sample of windows.")] = False,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures of this (PNG); implies --measure.")] = None,
    windows: Annotated[int, typer.Option(min=1, max=10**6, help="How many windows the sample has.")] = 256,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="What the sample depends on.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a cache holds: autoencoder, streams, splits, tasks, sizes, statistics, and what its latents are like."""
    from reencoder_pipeline.cache.open_cache import open_cache
    from reencoder_pipeline.inspection.summary import report, summarise

    opened = open_cache(cache)
    summary = summarise(opened)
    if measure or plots:
        from reencoder_pipeline.inspection.measurements import measure as measured

        summary["measured"] = measured(opened, windows=windows, seed=seed)
    if plots:
        from reencoder_pipeline.inspection.figures import draw

        for path in draw(opened, summary["measured"], plots):
            say(f"written: {path}")
    if as_json:
        print(json.dumps({**summary, **({"track_list": [vars(track) for track in opened.tracks]} if tracks else {})}))
        return
    for line in report(summary, opened.tracks if tracks else (), frame_rate=float(opened.spec.frame_rate)):
        print(printable(line, lines=True))


def verify(  # noqa: PLR0917, typer reads the signature
    cache: Place,
    quick: Annotated[bool, typer.Option(help="Check only that every file is there in full size.")] = False,
    autoencoder: Annotated[
        str | None, typer.Option("--autoencoder", metavar="NAME", help="The one that made the latents; as in `build`.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="What the cache was made from: encode some of it again, and look for seams.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=10**6, help="How many windows of the source are encoded again.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="What the choice of these windows depends on.")] = 0,
    discard: Annotated[bool, typer.Option(help="Forget damaged shards, so that `build` makes them again.")] = False,
    as_json: Json = False,
) -> None:
    """Check every byte and value against the index; exit 3 and name the damage when something is wrong."""
    from reencoder_pipeline.cache.open_cache import open_index
    from reencoder_pipeline.inspection.verify import conclusion, verify_all
    from reencoder_pipeline.inspection.verify import discard as forget

    opened = open_index(cache)
    with ProgressLine("verifying", unit="frames", scaled=True) as progress:
        findings = verify_all(
            opened,
            quick=quick,
            autoencoder=autoencoder,
            source=source,
            samples=samples,
            seed=seed,
            progress=progress,
        )
    damages = [finding for finding in findings if finding.severity == "damage"]
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        print(printable("\n".join(conclusion(opened, findings)), lines=True))
    if damages and discard:
        say(f"{forget(opened, damages)} shard(s) discarded; run the build again to make them")
    if damages:
        raise typer.Exit(SOME_FAILED)
