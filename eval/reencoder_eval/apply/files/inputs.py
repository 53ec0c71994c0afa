"""Finds the files that a command line names: files, folders, patterns, a list on standard input."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from reencoder_eval.apply.files.latents_io import NPY, is_latents
from reencoder_pipeline.corpora.corpus import AUDIO_SUFFIXES
from reencoder_pipeline.corpora.discovery import find_files
from reencoder_pipeline.errors import ConfigError, CorpusError

# Found in folders beside those that soundfile reads; a file that is named itself is tried whatever its name.
FFMPEG_SUFFIXES = frozenset(
    [".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mkv", ".mov", ".ac3", ".wv", ".ape", ".tta", ".mp2"]
)


LONGEST_NAME = 255  # bytes, where the file system does not say it


@dataclass(frozen=True)
class InputFile:
    """One file of audio or of latents. Its outputs are `folder` / (`stem` + something), below the folder for output.

    A stem is shortened where a name would be longer than the file system takes.
    """

    path: Path
    folder: Path
    stem: str

    def copy(self, out: Path) -> Path:
        return out / self.folder / _fitting(self.path.stem, self.path.suffix, out=out)

    def output(self, out: Path, *, suffix: str, variant: str = "") -> Path:
        return out / self.folder / _fitting(self.stem, f"{variant}{suffix}", out=out)


def _fitting(stem: str, ending: str, *, out: Path) -> str:
    """`stem` + `ending`; of a name that is too long the stem's beginning and a digest of it. Names count in bytes."""
    name = os.fsencode(stem)
    room = _longest_name(out.absolute()) - len(os.fsencode(ending)) - ending.endswith(NPY)  # beside .npy lies a .json
    if len(name) <= room or room < 10:
        return f"{stem}{ending}"
    digest = hashlib.sha256(name).hexdigest()[:8]
    return f"{name[: room - 9].decode(errors='ignore')}~{digest}{ending}"


@lru_cache
def _longest_name(out: Path) -> int:
    there = next(folder for folder in (out, *out.parents) if folder.is_dir())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (OSError, ValueError):
        return LONGEST_NAME


def find_inputs(
    inputs: Sequence[str], *, out: Path, stdin: BinaryIO, say: Callable[[str], None] = lambda message: None
) -> tuple[InputFile, ...]:
    """The files in a fixed order, each once. Files below `out` are no inputs. `say` gets a line for what folders hold
    besides.

    Two files of one folder that differ in the suffix alone keep it within their outputs' names. ConfigError when two
    inputs would still have the same output, or an output would replace an input; CorpusError when there is nothing.
    """
    found: list[tuple[Path, Path]] = []
    known: set[tuple[Path, Path] | Path] = set()  # a file named twice is one input; a link of another name is its own
    for path, relative in _expanded(_listed(inputs, stdin), out, say):
        keys = {path.parent.resolve() / path.name, (path.resolve(), relative)}
        if not keys & known:
            found.append((path, relative))
        known |= keys
    if not found:
        raise CorpusError("no audio and no latents found", where=" ".join(inputs), remedy="name files that exist")
    stems = Counter(str(relative.with_suffix("")) for _, relative in found)
    files = tuple(
        InputFile(path, relative.parent, relative.name if stems[str(relative.with_suffix(""))] > 1 else relative.stem)
        for path, relative in found
    )
    outputs: dict[Path, Path] = {}
    for file in files:
        place = out / file.folder / file.stem
        if place in outputs:
            value, remedy = f"{outputs[place]} and {file.path}", "give the folder above both, or two commands"
            raise ConfigError("two inputs would have the same output", where=place, value=value, remedy=remedy)
        if (out / file.folder).resolve() == file.path.parent.resolve():
            remedy = "give another folder as --out"
            raise ConfigError("the output would lie beside its input", where=out, value=file.path, remedy=remedy)
        outputs[place] = file.path
    return files


def _listed(inputs: Iterable[str], stdin: BinaryIO) -> Iterator[str]:
    for name in inputs:
        if name == "-":
            content = stdin.read()
            lines = content.split(b"\0" if b"\0" in content else b"\n")
            yield from (os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip())
        else:
            yield name


def _expanded(names: Iterable[str], out: Path, say: Callable[[str], None]) -> Iterator[tuple[Path, Path]]:
    """(path, path below the output folder)."""
    for name in names:
        try:
            path = Path(name).expanduser()
        except RuntimeError:
            raise ConfigError("the home folder of this user is not known", where=name, remedy="name it") from None
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for names that cannot be
            yield from ((one, one.relative_to(path)) for one in _below(path, out, say))
        elif os.path.lexists(path) or not glob.has_magic(name):
            if not path.name:
                raise ConfigError("an input has no name", where=repr(name), remedy="name files, folders or patterns")
            yield path, Path(path.name)  # one that is missing fails later, by itself
        else:
            root = _fixed_part(path)
            for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - one that names its root itself
                one = Path(match)
                if one.is_file() and not one.resolve().is_relative_to(out.resolve()):
                    yield one, _below_root(one, root, pattern=name)


def _below(folder: Path, out: Path, say: Callable[[str], None]) -> Iterator[Path]:
    suffixes = AUDIO_SUFFIXES | FFMPEG_SUFFIXES
    found, left = find_files(folder, taken=suffixes)
    for line in left.lines():
        say(line)
    for path in found:
        if not path.is_file() or path.resolve().is_relative_to(out.resolve()):
            continue
        if path.suffix.lower() in suffixes or is_latents(path, listed=True):
            yield path


def _below_root(path: Path, root: Path, *, pattern: str) -> Path:
    """`path` from `root` on. A pattern may go up again with `..`: then by the folders that these really are."""
    relative = path.relative_to(root)
    if ".." not in relative.parts:
        return relative
    place, top = path.parent.resolve() / path.name, root.resolve()
    if not place.is_relative_to(top):
        raise ConfigError(
            "the pattern leaves the folder before its first wildcard: there is no place for its outputs below --out",
            where=pattern, value=f"{path} does not lie below {root}", remedy="begin the pattern above all of its files",
        )  # fmt: skip
    return place.relative_to(top)


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard: a/b for a/b/*/c.wav."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
