"""A folder of songs that changes between builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile

from tiny_build import music as render

SONGS = [f"{letter}.wav" for letter in "bcdefghijklmnopq"]
ONE: dict[str, Any] = {"streams": ["mono"]}


def write_song(path: Path, *, seed: int) -> None:
    seconds = 1.1 + 0.37 * (seed % 5)  # 190 to 445 frames, of shards of 512 to 2,048
    soundfile.write(path, render(seconds=seconds, seed=seed).T, 44_100)


@pytest.fixture(name="songs")
def songs_in_a_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    folder.mkdir()
    for seed, name in enumerate(SONGS):
        write_song(folder / name, seed=seed)
    return folder


def change(songs: Path) -> None:
    write_song(songs / "a new.wav", seed=20)  # before all others
    write_song(songs / "e.wav", seed=21)  # of another length
    (songs / "h.wav").unlink()
    (songs / "c.wav").rename(songs / "z.wav")
