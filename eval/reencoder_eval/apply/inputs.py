"""What a command line names: files, folders, patterns and a list on standard input -> jobs with their output names."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reencoder_eval.apply.latents_io import is_latents
from reencoder_pipeline.corpus import AUDIO_SUFFIXES
from reencoder_pipeline.errors import ConfigError, CorpusError

# Found in folders beside those that soundfile reads; a file that is named itself is tried whatever its name.
FFMPEG_SUFFIXES = frozenset(
    [".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mkv", ".mov", ".ac3", ".wv", ".ape", ".tta", ".mp2"]
)


@dataclass(frozen=True)
class Job:
    """One input. Its outputs are `folder` / (`stem` + something), below the folder for output."""

    path: Path
    folder: Path
    stem: str

    def copy(self, out: Path) -> Path:
        return out / self.folder / self.path.name

    def output(self, out: Path, *, suffix: str, variant: str = "") -> Path:
        return out / self.folder / f"{self.stem}{variant}{suffix}"


def find_jobs(inputs: Sequence[str], *, out: Path, stdin: BinaryIO) -> tuple[Job, ...]:
    """The jobs in a fixed order, each file once. What lies below `out` is no input.

    Two files of one folder that differ in the suffix alone keep it within their outputs' names. ConfigError when two
    inputs would still have the same output, or an output would replace an input; CorpusError when there is nothing.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # by place on the disk, so that a file named twice is one job
    for path, relative in _expanded(_listed(inputs, stdin), out):
        found.setdefault(path.resolve(), (path, relative))
    if not found:
        raise CorpusError("no audio and no latents found", where=" ".join(inputs), remedy="name files that exist")
    stems = Counter(str(relative.with_suffix("")) for _, relative in found.values())
    jobs = tuple(
        Job(path, relative.parent, relative.name if stems[str(relative.with_suffix(""))] > 1 else relative.stem)
        for path, relative in found.values()
    )
    outputs: dict[Path, Path] = {}
    for job in jobs:
        place = out / job.folder / job.stem
        if place in outputs:
            value, remedy = f"{outputs[place]} and {job.path}", "give the folder above both, or two commands"
            raise ConfigError("two inputs would have the same output", where=place, value=value, remedy=remedy)
        if (out / job.folder).resolve() == job.path.parent.resolve():
            remedy = "give another folder as --out"
            raise ConfigError("the output would lie beside its input", where=out, value=job.path, remedy=remedy)
        outputs[place] = job.path
    return jobs


def _listed(inputs: Iterable[str], stdin: BinaryIO) -> Iterator[str]:
    for name in inputs:
        if name == "-":
            content = stdin.read()
            lines = content.split(b"\0" if b"\0" in content else b"\n")
            yield from (os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip())
        else:
            yield name


def _expanded(names: Iterable[str], out: Path) -> Iterator[tuple[Path, Path]]:
    """(path, path below the output folder)."""
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            yield from ((one, one.relative_to(path)) for one in _below(path, out))
        elif path.exists() or not glob.has_magic(name):
            yield path, Path(path.name)  # one that is missing fails later, by itself
        else:
            root = _fixed_part(path)
            for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - one that names its root itself
                one = Path(match)
                if one.is_file() and not one.resolve().is_relative_to(out.resolve()):
                    yield one, one.relative_to(root)


def _below(folder: Path, out: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or path.resolve().is_relative_to(out.resolve()):
            continue
        if path.suffix.lower() in AUDIO_SUFFIXES | FFMPEG_SUFFIXES or is_latents(path, listed=True):
            yield path


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard: a/b for a/b/*/c.wav."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
