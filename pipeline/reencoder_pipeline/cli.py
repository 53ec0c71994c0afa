"""`reencoder-cache`: parses and prints, no logic."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reencoder_pipeline.exit_codes import SOME_FAILED, a_number, run
from reencoder_pipeline.plain_text import printable

app = typer.Typer(
    help="Encode a corpus of audio once into a latent cache, and look after it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Source = Annotated[Path, typer.Argument(help="A folder of audio, a .jsonl manifest, or a text list of files.")]
Place = Annotated[str, typer.Argument(help="A finished latent cache: a folder, or a URL such as s3://bucket/cache.")]
Config = Annotated[Path | None, typer.Option(help="YAML with cache settings; the defaults if not given.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--autoencoder",
        metavar="NAME",
        help="house, a folder or file of weights, a hub id, or package.module:function, which is imported and called; "
        "NAME#key=value,... gives options: revision, subfolder, local_files_only, form.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


@app.command()
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
    as_json: Json = False,
) -> None:
    """Encode SOURCE into a latent cache. The same command again goes on where the last one stopped; run several times
    at once, on any machines that reach --out, it shares the work. Of a corpus that changed, only that is encoded."""
    chosen = [*_option("format", format_), *_option("autoencoder", autoencoder)]
    from reencoder_pipeline.config import CacheConfig, load_config

    settings = load_config(config, CacheConfig, [*(set_ or []), *chosen])
    from reencoder_pipeline.build.build import build_cache

    try:
        with _progress("encoding") as report:
            result = build_cache(
                source,
                out,
                settings,
                progress=report,
                workers=settings.workers or os.cpu_count() or 1,
                say=report.say,
                ray=ray,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; finished shards are kept, the same command goes on: {_command()}"
        ) from None
    summary = {
        "cache": str(out),
        "tracks": result.num_tracks,
        "frames": result.num_frames,
        "shards_built": result.built,
        "shards_kept": result.kept,
        "shards_by_others": result.by_others,
        "tracks_encoded": result.encoded,
        "tracks_reused": result.reused,
        "failures": len(result.failures),
        "left_out": result.left_out,
    }
    _end(summary, result.failures, out, as_json)


@app.command()
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

    settings = load_config(config, CacheConfig, [*(set_ or []), *_option("autoencoder", autoencoder)])
    from reencoder_pipeline.build.estimate import estimate, table
    from reencoder_pipeline.build.plan import plan_build, remarks

    planned = plan_build(source, settings)
    for remark in remarks(planned):
        _say(remark)
    if calibrate and rate is None:
        _say(f"encoding {seconds:g} s of audio to measure the rate (--no-calibrate leaves it out)")
    summary = estimate(
        planned, settings, seconds=seconds if calibrate else None, rate=rate, devices=devices, hours=hours
    )
    print(json.dumps(summary) if as_json else printable(table(summary), lines=True))


@app.command()
def inspect(  # noqa: PLR0917, typer reads the signature
    cache: Place,
    tracks: Annotated[bool, typer.Option(help="List every track.")] = False,
    measure: Annotated[bool, typer.Option(help="Look at the latents too, in a sample of windows.")] = False,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for pictures of all this (PNG); implies --measure.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, max=10**6, help="How many windows the sample has.")] = 256,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="What the sample depends on.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a cache holds: autoencoder, streams, splits, tasks, sizes, statistics, and what its latents are like."""
    from reencoder_pipeline.cache.open_cache import open_cache
    from reencoder_pipeline.inspection.summary import inspect_cache, report

    opened = open_cache(cache)
    summary = inspect_cache(opened, windows=windows if measure or plots else None, seed=seed)
    if plots:
        from reencoder_pipeline.inspection.figures import draw

        for path in draw(opened, summary["measured"], plots):
            _say(f"written: {path}")
    if as_json:
        print(json.dumps({**summary, **({"track_list": [vars(track) for track in opened.tracks]} if tracks else {})}))
        return
    for line in report(summary, opened.tracks if tracks else (), frame_rate=float(opened.spec.frame_rate)):
        print(printable(line, lines=True))


@app.command()
def verify(  # noqa: PLR0917, typer reads the signature
    cache: Place,
    quick: Annotated[bool, typer.Option(help="Only whether every file is there in full size.")] = False,
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
    with _progress("verifying") as progress:
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
        _say(f"{forget(opened, damages)} shard(s) discarded: run the build again")
    if damages:
        raise typer.Exit(SOME_FAILED)


@app.command()
def convert(
    cache: Place,
    out: Annotated[str, typer.Option(help="Folder of the new cache.")],
    format_: Annotated[str, typer.Option("--format", help="zarr or webdataset.")],
    as_json: Json = False,
) -> None:
    """Write a cache in the other format: the same tracks, values and statistics. The old one stays as it is."""
    from reencoder_pipeline.config import CacheConfig, load_config

    settings = load_config(None, CacheConfig, _option("format", format_))
    from reencoder_pipeline.exchange.convert import convert_cache
    from reencoder_pipeline.exchange.output_folder import local_folder

    with _resuming(), _progress("converting") as report:
        done = convert_cache(cache, local_folder(out), storage=settings.format, progress=report)
    _print({"cache": out, **vars(done)}, as_json)


@app.command()
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

    with _resuming(), _progress("exporting") as report:
        done = export_cache(
            cache, local_folder(out), streams=stream or (), splits=split or (), length=frames, progress=report
        )
    _print({"folder": out, **vars(done)}, as_json)


@app.command(name="import")
def import_(  # noqa: PLR0917, typer reads the signature
    out: Annotated[str, typer.Option(help="Folder of the cache.")],
    autoencoder: Annotated[
        str, typer.Option("--autoencoder", metavar="NAME", help="The one that made them; as in `build`.")
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
    """Make a cache of latents that are there already. Settings are those of `build`."""
    from reencoder_pipeline.config import CacheConfig, load_config

    settings = load_config(None, CacheConfig, [*(set_ or []), *_option("format", format_)])
    from reencoder_pipeline.autoencoder import load_autoencoder
    from reencoder_pipeline.exchange.import_latents import import_latents
    from reencoder_pipeline.exchange.items import folders_of
    from reencoder_pipeline.exchange.output_folder import local_folder

    target, spec = local_folder(out), load_autoencoder(autoencoder).spec
    folders = folders_of(folder, stream or (), spec)
    with _resuming(), _progress("importing") as report:
        done, failures = import_latents(folders, target, spec, settings, progress=report, say=report.say)
    _end({"cache": out, **vars(done)}, failures, out, as_json)


@app.command()
def fetch(
    collection: Annotated[str, typer.Argument(help="debian-music, or debian-unseen: packages we never train on")],
    out: Annotated[Path, typer.Option(help="Folder to lay the music out in.")],
    packages: Annotated[str | None, typer.Option(help="Comma-separated; default: all of the manifest.")] = None,
) -> None:
    """Fetch free music, checked against its manifest. Needs no root."""
    from reencoder_pipeline.corpora.debian_music import COLLECTIONS, fetch_debian_music

    if collection not in COLLECTIONS:
        raise typer.BadParameter(f"{collection!r} is not known; there are {', '.join(COLLECTIONS)}")
    chosen = None if packages is None else [name.strip() for name in packages.split(",") if name.strip()]
    print(fetch_debian_music(out, packages=chosen, progress=_say, collection=collection))
    if (out / "failures.jsonl").exists():
        _say(f"some tracks are not what the manifest promises and were left out, see {out / 'failures.jsonl'}")
        raise typer.Exit(SOME_FAILED)


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text in any encoding
    run(app)


def _end(summary: dict[str, object], failures: Sequence[dict[str, str]], out: Path | str, as_json: bool) -> None:
    """What was done, on stdout; the first files that failed, on stderr, and exit 3."""
    _print(summary, as_json)
    if failures:
        _say(f"{len(failures)} file(s) could not be used and were left out, see {out}/failures.jsonl:")
        for failure in failures[:10]:
            _say(failure["error"])
        raise typer.Exit(SOME_FAILED)


def _print(summary: dict[str, object], as_json: bool) -> None:
    counts = {k: ", ".join(f"{what} ({n})" for what, n in v.items()) for k, v in summary.items() if isinstance(v, dict)}
    lines = (f"{name.replace('_', ' ')}: {value}" for name, value in {**summary, **counts}.items() if value != "")
    print(json.dumps(summary) if as_json else printable("\n".join(lines), lines=True))


@contextmanager
def _resuming() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; what is finished is kept, the same command goes on: {_command()}"
        ) from None


class _progress:  # noqa: N801, used as a function
    """A bar with rate and time left on stderr: a line a minute when nobody looks at it."""

    def __init__(self, what: str) -> None:
        from tqdm import tqdm

        interval = 0.5 if sys.stderr.isatty() else 30.0
        self.bar = tqdm(desc=what, unit="frame", unit_scale=True, mininterval=interval, file=sys.stderr)

    def __enter__(self) -> _progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def say(self, message: str) -> None:
        self.bar.write(printable(message, lines=True), file=sys.stderr)


def _option(key: str, value: str | None) -> list[str]:
    """An option of its own as an override; quoted, for what a path may hold means something in YAML."""
    return [] if value is None else [f"{key}={json.dumps(value)}"]


def _say(message: str) -> None:
    print(printable(message, lines=True), file=sys.stderr)


def _command() -> str:
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


if __name__ == "__main__":
    main()
