"""Finds and reads the audio files from which the tracks of a cache were made."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio.read import middle, read_audio
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.errors import AudioError, CorpusError
from reencoder_pipeline.inspection.finding import Finding
from reencoder_pipeline.stores.digests import file_digest
from reencoder_pipeline.stores.store import open_store


def draw_windows(
    tracks: Sequence[CachedTrack], *, length: int, samples: int, random: np.random.Generator
) -> list[tuple[CachedTrack, list[tuple[int, int]]]]:
    """Draw `samples` spans of `length` frames (shorter tracks whole), evenly over all frames; grouped by track."""
    frames = np.array([track.num_frames for track in tracks], dtype=np.float64)
    spans: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for number in random.choice(len(tracks), size=samples, p=frames / frames.sum()).tolist():
        num_frames = tracks[number].num_frames
        start = int(random.integers(max(1, num_frames - length + 1)))
        spans[number].append((start, min(num_frames, start + length)))
    return [(tracks[number], spans[number]) for number in sorted(spans)]


def tracks_with_sources(cache: LatentCache, source: Path) -> tuple[list[Finding], dict[str, Path]]:
    """The cache's tracks found in `source`, id -> file, and a warning if some are missing. CorpusError if all are."""
    of_corpus = {track.id: track.path for track in read_corpus(source)}
    paths = {track.id: of_corpus[track.id] for track in cache.tracks if track.id in of_corpus}
    if not paths:
        what, remedy = "the cache was not made from this source", "give the folder or manifest it was built from"
        value = f"{len(of_corpus)} tracks, none of them in the cache"
        raise CorpusError(what, where=source, value=value, remedy=remedy)
    missing = len(cache.tracks) - len(paths)
    findings = []
    if missing:
        findings.append(Finding("warning", "edges", f"{missing} of {len(cache.tracks)} tracks are not in {source}"))
    return findings, paths


def track_audio(
    path: Path, track: CachedTrack, cache: LatentCache, *, track_seconds: float | None
) -> NDArray[np.float32]:
    """The encoded part of a file, (channels, samples) at the cache's rate. AudioError if the file has changed."""
    remedy = "restore the file, or build the cache again"
    if file_digest(path) != track.sha256:
        raise AudioError("the file has changed since the cache was made from it", where=path, remedy=remedy)
    audio, rate = read_audio(path)
    audio = audio[:, middle(audio.shape[1], rate, track_seconds)]
    if rate != cache.spec.sample_rate:
        audio = resample(audio, rate, cache.spec.sample_rate)
    if audio.shape[1] != track.num_samples:
        what = "the file decodes to another length than when it was encoded"
        value = f"{audio.shape[1]} samples instead of {track.num_samples}"
        raise AudioError(what, where=path, value=value, remedy=remedy)
    return audio


def settings_of(cache: LatentCache) -> tuple[CacheConfig, list[Finding]]:
    """Read from settings.json how segments and tracks were cut; defaults and a warning without it."""
    try:
        settings = json.loads(open_store(cache.origin).read("settings.json") or b"")
        known = {"segment_seconds": settings["segment_seconds"], "track_seconds": settings.get("track_seconds")}
        return CacheConfig.model_validate(known), []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # missing from a copy, or damaged
        settings = CacheConfig.model_validate({})
    problem = f"settings.json does not state the segments' length; {settings.segment_seconds:g} s are assumed"
    return settings, [Finding("warning", "edges", problem, file="settings.json")]
