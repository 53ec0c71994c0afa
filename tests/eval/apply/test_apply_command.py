"""`reencoder-apply` from the command line: rows of JSON, exit codes, what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from applied import Place, low_music
from command_line import run_here
from readme_commands import commands_of
from reencoder_eval.cli.apply import app
from reencoder_pipeline.errors import ConfigError
from tiny_build import music


def test_finished_files_are_skipped_failed_ones_are_named_and_the_others_go_on(place: Place) -> None:
    place.write("b.wav", low_music(0.4), 22_050)
    (place.folder / "in" / "a.wav").write_bytes(b"RIFF no sound")
    place.write("c.wav", low_music(1 / 22_050), 22_050)
    outcomes = place.apply(place.folder / "in", upsample=place.bwe)
    assert [one.status for one in outcomes] == ["failed", "done", "done"]
    assert str(place.folder / "in" / "a.wav") in str(outcomes[0].error)
    before = (place.folder / "out" / "b.wav").stat().st_mtime_ns
    assert [one.status for one in place.apply(place.folder / "in", upsample=place.bwe)][1:] == ["skipped"] * 2
    assert (place.folder / "out" / "b.wav").stat().st_mtime_ns == before
    again = place.apply(place.folder / "in", upsample=place.bwe, overwrite=True)
    assert [one.status for one in again][1:] == ["done"] * 2
    assert sorted(path.name for path in (place.folder / "out").iterdir()) == ["b.wav", "c.wav"]


def test_a_dry_run_writes_nothing(place: Place) -> None:
    path = place.write("a.mp3", low_music(2.0), 22_050)
    [outcome] = place.apply(path, upsample=place.bwe, dry_run=True)
    assert outcome.status == "planned"
    assert outcome.outputs == [str(place.folder / "out" / "a.flac")]
    assert not (place.folder / "out").exists()


def test_the_command_prints_a_line_of_json_for_each_file_and_exits_3(place: Place) -> None:
    place.write("a.wav", low_music(0.4), 22_050)
    (place.folder / "in" / "b.wav").write_bytes(b"")
    arguments = [place.folder / "in", "--out", place.folder / "out", "--module", place.bwe]
    arguments = ["upsample", *arguments, "--autoencoder", place.autoencoder, "--device", "cpu"]
    done = CliRunner().invoke(app, [str(one) for one in [*arguments, "--json"]])
    assert done.exit_code == 3, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert "b.wav: the file is empty" in done.stderr
    np.save(place.folder / "a.npy", np.zeros((3, 20), dtype=np.float32))
    latents = [str(place.folder / "a.npy"), *map(str, arguments[2:])]
    assert CliRunner().invoke(app, ["upsample", *latents]).exit_code == 3, "latents have no seconds to show"
    wrong = CliRunner().invoke(app, [str(one) for one in [*arguments, "--seed", 1]])
    assert isinstance(wrong.exception, ConfigError)


UPON_FILES = [line for line in commands_of("README.md") if re.match("reencoder-apply up(sample|mix) ", line)]


@pytest.mark.parametrize("line", UPON_FILES)
def test_the_commands_of_the_readme_run(line: str, place: Place) -> None:
    """With modules and an autoencoder of the tests in place of the released ones."""
    for name in ("full.wav", "mono.flac", "mono.wav", "old.wav", "low.wav"):
        place.write(name, low_music(0.4), 22_050)
    (place.folder / "in" / "low.m4a").write_bytes((place.folder / "in" / "low.wav").read_bytes())
    place.write("reference.wav", music(seconds=1.5))
    program, task, *words = line.split()
    own = {"upsample": place.bwe, "upmix": place.m2s}
    words = [str(own[task]) if word == "out/runs/mine" else word for word in words]
    if "--module" not in words:
        words += ["--module", str(own[task])]
    if "--then" in words:
        words += ["--upmix-module", str(place.m2s)]
    done = run_here(
        program, task, *words, "--autoencoder", place.autoencoder, "--device", "cpu", folder=place.folder / "in"
    )
    assert done.returncode == 0, done.stderr
    assert any(file.is_file() for file in (place.folder / "in" / words[words.index("--out") + 1]).iterdir())


def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(place: Place) -> None:
    place.write("a.wav", low_music(0.2), 22_050)
    place.write("b.wav", np.tile(low_music(60.0), 10), 22_050)  # longer than any machine keeps the signal waiting
    line = [sys.executable, "-m", "reencoder_eval.cli.apply", "upsample", "in", "--out", "out", "--device", "cpu"]
    line += ["--module", str(place.bwe), "--autoencoder", str(place.autoencoder)]
    with subprocess.Popen(
        line, cwd=place.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done: out/a.wav (own band ends at 9.9 kHz)\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 of 2 files are finished, the same command skips them and goes on: reencoder-apply upsample in" in said
    assert [path.name for path in (place.folder / "out").iterdir()] == ["a.wav"]
