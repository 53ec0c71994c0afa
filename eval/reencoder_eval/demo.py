"""`make demo`: the whole path on a little music, by the same commands that a user would type."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reencoder_pipeline.command_line import run
from reencoder_pipeline.corpus import Track, assign_splits, read_corpus
from reencoder_pipeline.errors import AudioError, CorpusError, FetchError

PACKAGE = "drascula-music"  # 36 MB, one composer, full-band stereo
MINUTES = {"train": 30.0, "valid": 5.0, "test": 10.0}  # of music that the demo takes from each split

OUT, CONFIGS = Path("out/demo"), Path("configs/demo")

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def demo(audio: Annotated[Path | None, typer.Option(help="your own music: a folder or a manifest")] = None) -> None:
    """Fetch, encode, train, evaluate; prints each command before it runs, and at the end the table and the page."""
    started = time.monotonic()
    manifest = _excerpt(audio or _music(OUT / "music"), OUT / "demo.jsonl")
    _run(
        "reencoder-cache", "build", manifest, "--out", OUT / "cache", "--config", CONFIGS / "cache.yaml", may_fail=True
    )
    resume = ["--resume"] if (OUT / "run" / "config.yaml").exists() else []
    _run("reencoder-train", CONFIGS / "train.yaml", *resume)
    _run("reencoder-eval", CONFIGS / "eval.yaml", "--set", f"source={manifest}", may_fail=True)
    minutes = (time.monotonic() - started) / 60
    print(f"\nThe demo took {minutes:.1f} minutes. Listen: {(OUT / 'eval' / 'report.html').resolve()}")


def _music(folder: Path) -> Path:
    try:
        _run("reencoder-cache", "fetch", "debian-music", "--packages", PACKAGE, "--out", folder)
        return folder / "manifest.jsonl"
    except FetchError:
        from reencoder_pipeline.synthetic import render_clips

        print(
            "\n*** No music could be fetched, so the demo renders SYNTHETIC clips. They show that everything runs;\n"
            "*** the figures and the page say nothing about music. Try: make demo AUDIO=/my/music\n"
        )
        render_clips(folder / "synthetic", count=24, seconds=40.0, seed=0)
        return folder / "synthetic"


def _excerpt(source: Path, manifest: Path) -> Path:
    """Write a manifest of at most MINUTES of each split of `source`, tracks in the order of their ids' hashes."""
    from reencoder_pipeline.audio import audio_header

    left = {split: minutes * 60 for split, minutes in MINUTES.items()}
    chosen: list[Track] = []
    tracks = assign_splits(read_corpus(source), valid_share=0.1, test_share=0.2)
    for track in sorted(tracks, key=lambda track: hashlib.sha256(track.id.encode()).digest()):
        try:
            rate, num_samples = audio_header(track.path)
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if track.split and left[track.split] > 0 and (track.tasks is None or "bwe" in track.tasks):
            left[track.split] -= num_samples / rate
            chosen.append(track)
    if not chosen:
        raise CorpusError("no track can be used", where=source)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(track), "path": str(track.path.resolve())} for track in chosen]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def _run(program: str, *arguments: object, may_fail: bool = False) -> None:
    """Run one of our commands from the environment this runs in; exit code 3 (some inputs failed) may be allowed."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join([program, *words])}", flush=True)
    code = subprocess.run([Path(sys.executable).with_name(program), *words], check=False).returncode
    if code == 0 or (may_fail and code == 3):
        return
    if "fetch" in words:
        raise FetchError("music could not be fetched", value=f"exit code {code}")
    raise typer.Exit(code)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
