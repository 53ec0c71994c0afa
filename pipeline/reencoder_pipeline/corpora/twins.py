"""Finds files with the same content under several names: copies of one recording belong to one split."""

from __future__ import annotations

import hashlib
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from reencoder_pipeline.stores.digests import file_digest

# Bytes compared at the beginning, middle and end before whole files are read. A corpus of 100,000 excerpts cut to one
# length has files of equal size, and reading them all would take long.
SAMPLED = 4_096


def same_content(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Groups of at least two regular files with the same bytes. Only files of equal size are opened, and only those
    with equal samples of their bytes are read whole."""
    groups: list[tuple[Path, ...]] = [tuple(dict.fromkeys(paths))]
    for key in (_size, _sample, file_digest):
        groups = [members for group in groups for members in _split_by(key, group)]
    return groups


def _split_by(key: Callable[[Path], Hashable], group: Sequence[Path]) -> list[tuple[Path, ...]]:
    by_key: dict[Hashable, list[Path]] = defaultdict(list)
    for path in group:
        try:
            value = key(path)
        except (OSError, ValueError):
            continue  # reading it as a track will report the error
        if value is not None:
            by_key[value].append(path)
    return [tuple(members) for members in by_key.values() if len(members) > 1]


def _size(path: Path) -> int | None:
    status = path.stat()
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_size else None


def _sample(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        places = (0, max(0, size // 2 - SAMPLED // 2), max(0, size - SAMPLED))
        parts = [(file.seek(place), file.read(SAMPLED))[1] for place in places]
    return hashlib.sha256(b"".join(parts)).digest()


def across_splits(tracks: Iterable[tuple[str, str | None, str]]) -> list[str]:
    """A sentence for each content that lies in several splits, from (id, split, sha256) of every track."""
    by_content: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, split, sha256 in tracks:
        if len(sha256) == 64 and split is not None:
            by_content[sha256][split].append(name)
    return [
        "the same recording lies in several splits: " + ", ".join(_members(*one) for one in splits.items())
        for splits in by_content.values()
        if len(splits) > 1
    ]


def _members(split: str, names: Sequence[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} in {split}"
