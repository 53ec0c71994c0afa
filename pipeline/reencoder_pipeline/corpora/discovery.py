"""Finds the files below a folder, also through links to folders, and reports what it leaves out."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reencoder_pipeline.errors import CorpusError

# Formats with sound that libsndfile does not read; some can also hold pictures.
OTHER_AUDIO = frozenset(
    ".m4a .m4b .m4p .m4r .mp4 .aac .adts .wma .asf .webm .weba .mka .mkv .mov .3gp .3ga .ac3 .eac3 .ec3 .dts .wv .ape "  # noqa: SIM905
    ".tta .mp1 .mp2 .mpa .mpga .mpc .mp+ .mpp .ofr .ofs .dsf .dff .alac .amr .awb .ra .ram .rm .spx .oma .aa3 .at3 .aa "
    ".aax .shn .tak .la .thd .mlp .voc .snd .sph .gsm .vqf .qcp".split()
)
HIDDEN_FILES, HIDDEN_FOLDERS = "hidden files", "hidden folders"
UNREADABLE, LINKS_ABOVE = "unreadable folders", "links to a folder above"
SHOWN = 3  # paths named for each kind


@dataclass(frozen=True)
class LeftOut:
    """Sound below a folder in unread formats, by suffix (".m4a"); hidden sound and skipped folders, by reason."""

    paths: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(paths) for name, paths in sorted(self.paths.items())}

    def lines(self) -> list[str]:
        """One sentence about all unread formats, and one for each problem."""
        said = []
        formats = {name: count for name, count in self.counts.items() if name.startswith(".")}
        if formats:
            kinds = ", ".join(f"{count} {name}" for name, count in formats.items())
            said.append(f"left out: {kinds}; these formats are not read: convert them to FLAC, for example with ffmpeg")
        for name, paths in sorted(self.paths.items()):
            if not name.startswith("."):
                more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
                said.append(f"left out: {name} ({len(paths)}): {', '.join(map(str, paths[:SHOWN]))}{more}")
        return said


def find_files(folder: Path, *, taken: frozenset[str]) -> tuple[list[Path], LeftOut]:
    """Find every file below a folder that is not hidden, sorted; and what a command that reads the suffixes `taken`
    leaves out. CorpusError if the folder itself cannot be read.

    Links to folders are followed, except to folders above this one, which contain it. Each folder is entered once, by
    its own path rather than a link if it has one below this folder.
    """
    files: list[Path] = []
    left: dict[str, list[Path]] = defaultdict(list)
    above = {(one.stat().st_dev, one.stat().st_ino) for one in folder.resolve().parents}
    entered: set[tuple[int, int]] = set()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        # Folders before links, so that tracks are named by paths without links where possible.
        here = waiting.pop() if waiting else heapq.heappop(links)
        try:
            status = here.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                left[LINKS_ABOVE].append(here)
                continue
            if identity in entered:
                continue
            entered.add(identity)
            with os.scandir(here) as entries:
                names = list(entries)
        except OSError as error:
            if here == folder:
                what, remedy = "the folder cannot be read", "check its permissions"
                raise CorpusError(what, where=folder, value=error.strerror, remedy=remedy) from None
            left[UNREADABLE].append(here)
            continue
        for entry in names:
            path, is_folder = here / entry.name, _is_folder(entry)
            suffix = path.suffix.lower()
            if entry.name.startswith("."):
                if entry.name.startswith("._"):
                    continue  # metadata that macOS keeps beside files on foreign disks
                if is_folder or suffix in taken | OTHER_AUDIO:
                    left[HIDDEN_FOLDERS if is_folder else HIDDEN_FILES].append(path)
            elif not is_folder:
                files.append(path)
                if suffix in OTHER_AUDIO - taken:
                    left[suffix].append(path)
            elif entry.is_symlink():
                heapq.heappush(links, path)
            else:
                waiting.append(path)
    return sorted(files), LeftOut({name: tuple(sorted(paths)) for name, paths in left.items()})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a broken link
        return False
