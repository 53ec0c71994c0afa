"""What all faults are tried on: a little music, its two undisturbed caches, and a place for trials; and their tally."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from zygote import Builder, Ended, Zygote

from tiny_build import music, tree

STORAGES = ("zarr", "webdataset")
EITHER_STORAGE = ["zarr", pytest.param("webdataset", marks=pytest.mark.slow)]  # `make test` tries the first
TRACKS = {f"{number}.wav": seconds for number, seconds in enumerate((0.8, 1.1, 0.75, 1.5, 0.9, 1.2, 0.8, 1.1))}
PASSING = (".partial", ".lock")


@dataclass
class Tally:
    """One line of the figures. Every trial is noticed, recovered or harmless, or else it is among the `wrong`."""

    kind: str
    storage: str
    trials: int = 0
    noticed: int = 0  # refused, or named by verification
    recovered: int = 0  # the same command then gave the undisturbed cache
    harmless: int = 0  # what is read is the same as before
    wrong: list[str] = field(default_factory=list)

    def note(self, problems: list[str], *, trial: object = "") -> None:
        """A trial after which the cache was built again."""
        self.trials += 1
        self.recovered += not problems
        self.wrong += [f"{trial}: {', '.join(problems[:5])}"] if problems else []


@dataclass(frozen=True)
class Scene:
    """`whole`: storage -> all that is in the cache of an undisturbed build; `caches` is where those lie."""

    folder: Path
    source: Path
    zygote: Zygote
    caches: dict[str, Path] = field(default_factory=dict)
    whole: dict[str, dict[str, bytes]] = field(default_factory=dict)
    quiet: dict[str, Ended] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    def builder(self, out: Path, storage: str, **faults: Any) -> Builder:
        return replace(Builder(str(self.source), str(out), storage), **faults)

    def build(self, out: Path, storage: str, **faults: Any) -> Ended:
        """`faults` are fields of Builder; `part="1/2"` makes a part."""
        return self.zygote.run([self.builder(out, storage, **faults)])[0]

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A folder that is not there yet, and no more afterwards."""
        out = self.folder / f"trial{next(self.numbers)}"
        try:
            yield out
        finally:
            shutil.rmtree(out, ignore_errors=True)

    @contextmanager
    def copy(self, storage: str) -> Iterator[Path]:
        """A finished cache to be damaged."""
        with self.place() as out:
            yield Path(shutil.copytree(self.caches[storage], out))

    def torn(self, out: Path, storage: str) -> list[str]:
        """What lies at its final place and is not what a quiet build puts there."""
        whole = self.whole[storage]
        final = {name: part for name, part in content(out).items() if not any(word in name for word in PASSING)}
        return [f"torn: {name}" for name, part in final.items() if part != whole.get(name)]

    def problems_after_resuming(self, out: Path, storage: str) -> list[str]:
        """Run the same command once more; [] when all is as after an undisturbed build, and nothing else is there."""
        ended = self.build(out, storage)
        return [f"resume: {ended.error or ended.code}"] if ended.code else self.differences(out, storage)

    def differences(self, out: Path, storage: str) -> list[str]:
        found, whole = content(out), self.whole[storage]
        missing = [f"missing: {name}" for name in whole if name not in found]
        return missing + [f"differs: {name}" for name, part in found.items() if part != whole.get(name)]


def content(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes, and every folder."""
    folders = {f"{path.relative_to(folder).as_posix()}/": b"" for path in folder.rglob("*") if path.is_dir()}
    return folders | tree(folder)


@cache
def scene() -> Scene:
    """Made once for all files of tests."""
    # In memory, if possible: SIGKILL takes nothing from the kernel, so a disk would only make this slow.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="reencoder-faults.", dir=memory))
    zygote = Zygote()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(zygote.close)
    made = Scene(folder, folder / "music", zygote)
    write_music(made.source)
    for storage in STORAGES:
        made.caches[storage] = folder / storage
        first = made.build(folder / storage, storage)
        assert first.code == 0, first.error
        made.whole[storage] = content(folder / storage)
        with made.place() as out:  # without the imports, as the builds that are going to be killed
            made.quiet[storage] = made.build(out, storage)
            assert made.differences(out, storage) == []
    return made


def write_music(folder: Path) -> None:
    """And one file that is none, so that failures.jsonl has a line."""
    import soundfile

    folder.mkdir()
    for position, (name, seconds) in enumerate(TRACKS.items()):
        soundfile.write(folder / name, music(seconds=seconds, seed=position).T, 44_100)
    (folder / "none.wav").write_bytes(b"not audio\n" * 10)
