"""`make demo`: runs the commands for fetching, encoding, training and evaluation on a small amount of music."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from reencoder_pipeline.errors import FetchError
from reencoder_pipeline.exit_codes import run

PACKAGE = "drascula-music"  # 36 MB, one composer, full-band stereo
OUT = Path("out/demo")

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def demo(audio: Annotated[Path | None, typer.Option(help="your own music: a folder or a manifest")] = None) -> None:
    """Fetch, encode, train, evaluate; prints each command before it runs, and at the end the table and the page."""
    started = time.monotonic()
    source = audio or _music(OUT / "music")
    cache, configs = OUT / "cache", Path("configs/demo")
    _run("reencoder-cache", "build", source, "--out", cache, "--config", configs / "cache.yaml", may_fail=True)
    _remove_earlier_run()
    _run("reencoder-train", configs / "train.yaml")
    _run("reencoder-eval", configs / "eval.yaml", "--set", f"source={source}", may_fail=True)
    minutes = (time.monotonic() - started) / 60
    print(f"\nThe demo took {minutes:.1f} minutes. Listen: {(OUT / 'eval' / 'report.html').resolve()}")


def _remove_earlier_run() -> None:
    """Remove the run of an earlier demo, which may have used other music."""
    from reencoder_pipeline.training.run_folder import RunFolder, remove_run
    from reencoder_trainer.config import TrainConfig

    remove_run(RunFolder(OUT / "run", "module.safetensors"), TrainConfig)


def _music(folder: Path) -> Path:
    try:
        _run("reencoder-cache", "fetch", "debian-music", "--packages", PACKAGE, "--out", folder, may_fail=True)
        return folder / "manifest.jsonl"
    except FetchError:
        from reencoder_pipeline.corpora.synthetic import render_clips

        print(
            "\n*** No music could be fetched, so the demo renders SYNTHETIC clips. They show that everything runs;\n"
            "*** the figures and the page say nothing about music. Try: make demo AUDIO=/my/music\n"
        )
        render_clips(folder / "synthetic", count=24, seconds=40.0, seed=0)
        return folder / "synthetic"


def _run(program: str, *arguments: object, may_fail: bool = False) -> None:
    """Run one of our commands from the environment this runs in; exit code 3 (some inputs failed) may be allowed."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join([program, *words])}", flush=True)
    code = subprocess.run([Path(sys.executable).with_name(program), *words], check=False).returncode
    if code == 0 or (may_fail and code == 3):
        return
    if "fetch" in words:
        remedy = "see the error above, or use your own music: make demo AUDIO=/my/music"
        raise FetchError("the music could not be fetched", value=f"exit code {code}", remedy=remedy)
    raise typer.Exit(code)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
