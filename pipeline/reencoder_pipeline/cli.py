"""`reencoder-cache`: parses and prints, no logic."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reencoder_pipeline.command_line import SOME_FAILED, run

if TYPE_CHECKING:
    from reencoder_pipeline.cache import LatentCache

app = typer.Typer(
    help="Encode a corpus of audio once into a latent cache, and look after it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Source = Annotated[Path, typer.Argument(help="A folder of audio, a .jsonl manifest, or a text list of files.")]
Cache = Annotated[Path, typer.Argument(help="A finished latent cache.")]
Config = Annotated[Path | None, typer.Option(help="YAML with cache settings; the defaults if not given.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--autoencoder",
        metavar="NAME",
        help="house, a folder or file of weights, a hub id, or package.module:function; NAME#key=value,... gives "
        "options: revision, subfolder, local_files_only, form.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


@app.command()
def build(  # noqa: PLR0917, typer reads the signature
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder of the cache.")],
    config: Config = None,
    set_: Set = None,
    format_: Annotated[str | None, typer.Option("--format", help="zarr or webdataset.")] = None,
    autoencoder: Name = None,
    as_json: Json = False,
) -> None:
    """Encode SOURCE into a latent cache. The same command again goes on where the last one stopped."""
    chosen = [*_option("format", format_), *_option("autoencoder", autoencoder)]
    from reencoder_pipeline.config import CacheConfig, load_config

    settings = load_config(config, CacheConfig, [*(set_ or []), *chosen])
    from reencoder_pipeline.build import build_cache

    try:
        with _progress("encoding") as report:
            result = build_cache(
                source, out, settings, progress=report, workers=settings.workers or os.cpu_count() or 1, say=report.say
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
        "failures": len(result.failures),
    }
    print(
        json.dumps(summary) if as_json else "\n".join(f"{name.replace('_', ' ')}: {v}" for name, v in summary.items())
    )
    if result.failures:
        _say(f"{len(result.failures)} file(s) could not be used and were left out, see {out / 'failures.jsonl'}:")
        for failure in result.failures[:10]:
            _say(failure["error"])
        raise typer.Exit(SOME_FAILED)


@app.command()
def plan(
    source: Source, config: Config = None, set_: Set = None, autoencoder: Name = None, as_json: Json = False
) -> None:
    """Say what `build` would do: tracks, hours, shards, bytes, and files that cannot be used. Encodes nothing."""
    from reencoder_pipeline.config import CacheConfig, load_config

    settings = load_config(config, CacheConfig, [*(set_ or []), *_option("autoencoder", autoencoder)])
    from reencoder_pipeline.build import plan_build, remarks

    planned = plan_build(source, settings)
    for remark in remarks(planned):
        _say(remark)
    hours = float(planned.num_frames / planned.spec.frame_rate / 3600)
    summary = {
        "autoencoder": planned.spec.to_dict(),
        "tracks": planned.num_tracks,
        "unsuited": planned.num_unsuited,
        "hours": round(hours, 3),
        "shards": len(planned.jobs),
        "streams": settings.streams,
        "bytes": planned.num_bytes(settings),
        "unusable": list(planned.failures),
    }
    if as_json:
        print(json.dumps(summary))
        return
    print(f"{planned.num_tracks} tracks, {hours:.2f} hours, {len(planned.jobs)} shards")
    if planned.num_unsuited:
        print(f"{planned.num_unsuited} tracks left out: their manifest says that they suit no task of these streams")
    print(
        f"{len(settings.streams)} streams, {planned.num_bytes(settings) / 1e6:.1f} MB of {settings.precision} latents"
    )
    for failure in planned.failures:
        print(f"unusable: {failure['error']}")


@app.command()
def inspect(
    cache: Cache, tracks: Annotated[bool, typer.Option(help="List every track.")] = False, as_json: Json = False
) -> None:
    """Say what a cache holds: autoencoder, streams, splits, tasks, sizes."""
    from reencoder_pipeline.cache import open_cache

    opened = open_cache(cache)
    summary = _summary(opened)
    if as_json:
        if tracks:
            summary["track_list"] = [vars(track) for track in opened.tracks]
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name.replace('_', ' ')}: {value}")
    for track in opened.tracks if tracks else ():
        seconds = float(track.num_frames / opened.spec.frame_rate)
        print(
            f"{track.split:5}  {seconds:7.1f} s  {track.bandwidth_hz:6.0f} Hz  "
            f"side/mid {track.side_mid_db:6.1f} dB  {','.join(track.tasks) or '-':7}  {track.id}"
        )


@app.command()
def verify(
    cache: Cache,
    discard: Annotated[bool, typer.Option(help="Forget damaged shards, so that `build` makes them again.")] = False,
    as_json: Json = False,
) -> None:
    """Check every byte against the index; exit 3 and name the damage when something is wrong."""
    from reencoder_pipeline.cache import open_index
    from reencoder_pipeline.verify import discard as forget
    from reencoder_pipeline.verify import verify_cache

    opened = open_index(cache)
    damages = verify_cache(opened)
    if as_json:
        print(json.dumps([vars(damage) for damage in damages]))
    else:
        for damage in damages:
            print(f"damaged: {damage.file}: {damage.problem}")
        print(f"{len(opened.shards)} shards checked, {len({damage.shard for damage in damages})} damaged")
    if damages and discard:
        _say(f"{forget(opened, damages)} shard(s) discarded: run the build again")
    if damages:
        raise typer.Exit(SOME_FAILED)


@app.command()
def fetch(
    collection: Annotated[str, typer.Argument(help="debian-music")],
    out: Annotated[Path, typer.Option(help="Folder to lay the music out in.")],
    packages: Annotated[str | None, typer.Option(help="Comma-separated; default: all of the manifest.")] = None,
) -> None:
    """Fetch free music, checked against its manifest. Needs no root."""
    if collection != "debian-music":
        raise typer.BadParameter(f"{collection!r} is not known; the one collection is debian-music")
    from reencoder_pipeline.debian_music import fetch_debian_music

    chosen = None if packages is None else [name.strip() for name in packages.split(",") if name.strip()]
    print(fetch_debian_music(out, packages=chosen, progress=_say))
    if (out / "failures.jsonl").exists():
        _say(f"some tracks are not what the manifest promises and were left out, see {out / 'failures.jsonl'}")
        raise typer.Exit(SOME_FAILED)


@app.command()
def fma(
    folder: Annotated[Path, typer.Argument(help="The folder fma_small, the one with 000/000002.mp3 in it.")],
    tracks: Annotated[Path, typer.Option(help="tracks.csv of fma_metadata.zip.")],
    out: Annotated[Path, typer.Option(help="The manifest to write (.jsonl); paths in it are relative to it.")],
    num_clips: Annotated[int, typer.Option(min=1, help="How many clips to choose.")] = 673,
    seed: Annotated[int, typer.Option(help="What the choice depends on.")] = 0,
) -> None:
    """List clips of FMA-small that are fit for a test set, chosen by a seed. data_manifests/fma_small.md says how."""
    from reencoder_pipeline.fma import build_fma_manifest

    made = build_fma_manifest(
        folder, tracks, out=out, num_clips=num_clips, seed=seed, workers=os.cpu_count() or 1, progress=_say
    )
    print(made.path)
    if len(made.rows) < num_clips:
        raise typer.Exit(SOME_FAILED)


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text in any encoding
    run(app)


def _summary(cache: LatentCache) -> dict[str, object]:
    hours: Counter[str] = Counter()
    for track in cache.tracks:
        for task in track.tasks or ("no task",):
            hours[f"{track.split}/{task}"] += track.num_frames
    size = sum(size for shard in cache.shards for size, _ in shard.files.values())
    return {
        "autoencoder": f"{cache.spec.autoencoder} ({cache.spec.weights[:12]})",
        "latents": f"{cache.spec.channels} channels at {float(cache.spec.frame_rate):.2f} Hz, {cache.precision}",
        "stereo": cache.spec.stereo,
        "streams": ", ".join(cache.streams),
        "low_band": f"{cache.low_band['rate']} Hz by {cache.low_band['resampler']}",
        "storage": f"{cache.storage}, {len(cache.shards)} shards, {size} bytes",
        "tracks": dict(Counter(track.split for track in cache.tracks)),
        "hours": {name: round(float(n / cache.spec.frame_rate) / 3600, 3) for name, n in sorted(hours.items())},
        "digest": cache.digest,
        **({"notes": "; ".join(cache.notes)} if cache.notes else {}),
    }


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
        self.bar.write(message, file=sys.stderr)


def _option(key: str, value: str | None) -> list[str]:
    """An option of its own as an override; quoted, for what a path may hold means something in YAML."""
    return [] if value is None else [f"{key}={json.dumps(value)}"]


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _command() -> str:
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


if __name__ == "__main__":
    main()
