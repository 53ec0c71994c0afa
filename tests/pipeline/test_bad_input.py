"""A corpus with every kind of bad file: each is named with its reason, nothing replaces it, and the rest is built."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from command_line import reencoder_cache
from reencoder_pipeline.cache.open_cache import open_cache
from tiny_build import music as make_music

GOOD = {
    "sound.wav",
    "Ünïcode «odd» name 音.flac",
    "telephone 8 kHz.wav",
    "studio 192 kHz.wav",
    "-starts with a dash.wav",
}
BAD = {  # file -> a word of the reason that failures.jsonl gives
    "empty.wav": "cannot be read",
    "text.wav": "cannot be read",
    "truncated.mp3": "another length",
    "not numbers.wav": "not numbers",
    "one sample.wav": "shorter than one latent frame",
    "no samples.wav": "no samples",
    "six channels.wav": "6 channels",
    "dangling.wav": "no such audio file",
    "unreadable.wav": "permission",
}


def test_bad_files_are_quarantined_and_the_rest_is_built(tmp_path: Path, tiny_autoencoder: Path) -> None:
    folder = tmp_path / "music"
    _write(folder)
    bad = dict(BAD)
    if os.access(folder / "unreadable.wav", os.R_OK):  # root reads anything
        (folder / "unreadable.wav").unlink()
        del bad["unreadable.wav"]
    run = reencoder_cache(
        "build", folder, "--out", tmp_path / "cache", "--json", "--set", f"autoencoder={tiny_autoencoder}"
    )
    assert run.returncode == 3, run.stderr
    summary = json.loads(run.stdout)
    assert (summary["tracks"], summary["failures"]) == (len(GOOD), len(bad))
    assert "Traceback" not in run.stderr
    failures = [json.loads(line) for line in (tmp_path / "cache" / "failures.jsonl").read_text().splitlines()]
    assert {failure["id"]: bad[failure["id"]] in failure["error"] for failure in failures} == dict.fromkeys(bad, True)
    assert {track.id for track in open_cache(tmp_path / "cache").tracks} == GOOD


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "no/such/folder"], "no such folder or manifest"),
        (["build", "{empty}"], "the source holds no tracks"),
        (["build", "{text_only}"], "not one track could be encoded"),
        (["build", "{text_only}", "--set", "precison=float16"], "did you mean precision?"),
        (["build", "{text_only}", "--set", "autoencoder=hause"], "the autoencoder is unknown"),
        (["build", "{text_only}", "--config", "no.yaml"], "no such configuration file"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_exit_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    places = {name: tmp_path / name for name in ("empty", "text_only")}
    for place in places.values():
        place.mkdir()
    (places["text_only"] / "text.wav").write_text("not audio\n")
    words = [word.format(**places) for word in arguments]
    run = reencoder_cache(*words, "--out", tmp_path / "out")
    assert run.returncode == 2, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def _write(folder: Path) -> None:
    folder.mkdir()
    sound = make_music(seconds=2.0).T  # (samples, channels)
    for name in ("sound.wav", "Ünïcode «odd» name 音.flac", "-starts with a dash.wav", "unreadable.wav"):
        soundfile.write(folder / name, sound, 44_100)
    (folder / "unreadable.wav").chmod(0)
    soundfile.write(folder / "telephone 8 kHz.wav", sound[:8000], 8_000)
    soundfile.write(folder / "studio 192 kHz.wav", sound, 192_000)
    soundfile.write(folder / "six channels.wav", np.tile(sound, 3), 44_100)
    soundfile.write(folder / "one sample.wav", sound[:1], 44_100)
    soundfile.write(folder / "no samples.wav", sound[:0], 44_100)
    broken = sound.copy()
    broken[1000] = np.nan
    soundfile.write(folder / "not numbers.wav", broken, 44_100, subtype="FLOAT")
    soundfile.write(folder / "whole.mp3", sound, 44_100)
    content = (folder / "whole.mp3").read_bytes()
    (folder / "truncated.mp3").write_bytes(content[: len(content) // 3])
    (folder / "whole.mp3").unlink()
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not audio\n")
    (folder / "dangling.wav").symlink_to(folder / "gone.wav")
    (folder / ".hidden.wav").write_text("not looked at\n")
