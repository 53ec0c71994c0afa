"""The commands `reencoder-cache convert`, `export` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reencoder_pipeline.cli.options import Json, Place, Set, option
from reencoder_pipeline.cli.output import finish, print_summary
from reencoder_pipeline.exit_codes import resuming
from reencoder_pipeline.progress import ProgressLine


def convert(  # noqa: PLR0917, typer reads the signature
    cache: Place,
    out: Annotated[str, typer.Option(help="Folder of the new cache.")],
    format_: Annotated[str, typer.Option("--format", help="zarr or webdataset.")],
    compression: Annotated[str, typer.Option(help="Of Zarr shards: none, zstd or blosc (with bitshuffle).")] = "none",
    level: Annotated[int | None, typer.Option(help="zstd: 1 to 19, default 3; blosc: 1 to 9, default 5.")] = None,
    as_json: Json = False,
) -> None:
    """Write a cache in another format, or compressed: the same tracks, values and statistics. The old one stays."""
    from reencoder_pipeline.config import CacheConfig, load_config

    asked = {"format": format_, "compression": compression, "compression_level": level}
    settings = load_config(None, CacheConfig, [line for key, value in asked.items() for line in option(key, value)])
    from reencoder_pipeline.cache.layout import compression_of
    from reencoder_pipeline.exchange.convert import convert_cache
    from reencoder_pipeline.exchange.output_folder import local_folder

    with resuming(), ProgressLine("converting", unit="frames", scaled=True) as report:
        done = convert_cache(
            cache, local_folder(out), storage=settings.format,
            compression=compression_of(settings), progress=report,
        )  # fmt: skip
    print_summary({"cache": out, **vars(done)}, as_json)


def export(  # noqa: PLR0917, typer reads the signature
    cache: Place,
    out: Annotated[str, typer.Option(help="Folder of the latents; a subfolder for every stream.")],
    stream: Annotated[list[str] | None, typer.Option(help="Only this stream; repeatable.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; repeatable.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Cut tracks into items of so many frames, the last one padded.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a cache as the pre-encoded latents of stable-audio-tools: a .npy (channels, frames) and a .json an item."""
    from reencoder_pipeline.exchange.export_latents import export_cache
    from reencoder_pipeline.exchange.output_folder import local_folder

    with resuming(), ProgressLine("exporting", unit="frames", scaled=True) as report:
        done = export_cache(
            cache, local_folder(out), streams=stream or (), splits=split or (), length=frames, progress=report
        )
    print_summary({"folder": out, **vars(done)}, as_json)


def import_(  # noqa: PLR0917, typer reads the signature
    out: Annotated[str, typer.Option(help="Folder of the cache.")],
    autoencoder: Annotated[
        str, typer.Option("--autoencoder", metavar="NAME", help="The autoencoder that made the latents; as in `build`.")
    ],
    folder: Annotated[Path | None, typer.Argument(help="Latents of stable-audio-tools: .npy and .json files.")] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=FOLDER]",
            help="What FOLDER holds: mono, low_band, left, right or stereo. For several streams: NAME=FOLDER each.",
        ),
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="zarr or webdataset.")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Make a cache of latents that exist already. Settings are those of `build`."""
    from reencoder_pipeline.config import CacheConfig, load_config

    settings = load_config(None, CacheConfig, [*(set_ or []), *option("format", format_)])
    from reencoder_pipeline.autoencoder import load_autoencoder
    from reencoder_pipeline.exchange.import_latents import import_latents
    from reencoder_pipeline.exchange.items import folders_of
    from reencoder_pipeline.exchange.output_folder import local_folder

    target, spec = local_folder(out), load_autoencoder(autoencoder).spec
    folders = folders_of(folder, stream or (), spec)
    with resuming(), ProgressLine("importing", unit="frames", scaled=True) as report:
        done, failures = import_latents(folders, target, spec, settings, progress=report, say=report.say)
    finish({"cache": out, **vars(done)}, failures, out, as_json)
