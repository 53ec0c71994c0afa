"""Assigns tracks to train, valid and test by a hash of their id."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.corpora.twins import same_content


def assign_splits(tracks: Sequence[Track], *, valid_share: float, test_share: float) -> tuple[Track, ...]:
    """Give every track without a split one, by a hash of its id, so that it gets the same split in any corpus.

    Files with the same content are one recording: all follow the first that has a split, else the first. If a small
    corpus leaves a wanted split empty, the train track with the lowest hash moves into it.

    Example::

        tracks = assign_splits(read_corpus(folder), valid_share=0.05, test_share=0.05)
    """
    first = first_alike(tracks)
    own = [track for track in tracks if track.split is None and first[track.id].id == track.id]
    hashes = {track.id: unit_hash(track.id) for track in own}
    ranked = sorted(hashes, key=hashes.__getitem__)
    splits = {name: _split_of(hashes[name], valid_share, test_share) for name in ranked}
    for wanted, share in (("test", test_share), ("valid", valid_share)):
        candidates = [name for name in ranked if splits[name] == "train"]
        taken = wanted in splits.values() or any(track.split == wanted for track in tracks)
        if share and not taken and len(candidates) > 1:
            splits[candidates[0]] = wanted
    leads = [first[track.id] for track in tracks]
    return tuple(
        track if track.split else replace(track, split=lead.split or splits[lead.id])
        for track, lead in zip(tracks, leads, strict=True)
    )


def first_alike(tracks: Sequence[Track]) -> dict[str, Track]:
    """id -> the track whose split it takes: itself, or the leader of the files with the same content."""
    by_path: dict[Path, list[Track]] = defaultdict(list)
    for track in tracks:
        by_path[track.path].append(track)
    alike = same_content(by_path)
    others = by_path.keys() - {path for paths in alike for path in paths}
    first = {track.id: track for track in tracks}
    for paths in (*alike, *((path,) for path in others if path.name)):
        members = [track for path in paths for track in by_path[path]]
        leader = next((track for track in members if track.split), members[0])
        first |= {track.id: leader for track in members}
    return first


def unit_hash(track_id: str) -> float:
    """A number in [0, 1) that depends only on this id."""
    return int.from_bytes(hashlib.sha256(track_id.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _split_of(position: float, valid_share: float, test_share: float) -> str:
    if position < test_share:
        return "test"
    return "valid" if position < test_share + valid_share else "train"
