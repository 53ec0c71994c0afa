"""Verifies a cache: every byte and value against its index, its autoencoder, and seams within its tracks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.int8 import latents_of
from reencoder_pipeline.cache.formats.zarr_shards import CHUNK_FRAMES
from reencoder_pipeline.cache.index import INDEX, Shard
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.layout import record_name
from reencoder_pipeline.cache.shard_frames import arrays_on_disk, data_files
from reencoder_pipeline.corpora.twins import across_splits
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.finding import Finding
from reencoder_pipeline.inspection.outliers import loud_tracks
from reencoder_pipeline.inspection.value_checks import ValueCheck
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.progress import Progress
from reencoder_pipeline.shards.record import parse_record
from reencoder_pipeline.shards.sweep import RECORD_BEGINS
from reencoder_pipeline.stores.digests import file_digest
from reencoder_pipeline.stores.store import is_url, open_store


def verify_all(
    cache: LatentCache,
    *,
    quick: bool,
    autoencoder: str | None,
    source: Path | None,
    samples: int,
    seed: int,
    progress: Progress,
) -> list[Finding]:
    """Check the cache itself, then that it belongs to the autoencoder of this name, then against its source.

    Without a name, a cache of an autoencoder that ships with us is compared with that (`shipped_name`).
    """
    findings = verify_cache(cache, quick=quick, progress=progress)
    if autoencoder is None and source is None:
        return findings
    from reencoder_pipeline.autoencoder import load_autoencoder, shipped_name
    from reencoder_pipeline.inspection.seams import check_edges

    if autoencoder is None:
        autoencoder = shipped_name(cache.spec.autoencoder, where=cache.path)
    loaded = load_autoencoder(autoencoder)
    findings += verify_autoencoder(cache, loaded.spec)
    if source is not None and not any(finding.severity == "damage" for finding in findings):
        frames = sum(shard.num_frames for shard in cache.shards)
        findings += check_edges(
            cache,
            loaded,
            source,
            samples=samples,
            seed=seed,
            progress=lambda done, total: progress(frames + done, frames + total),
        )
    return findings


def verify_cache(
    cache: LatentCache, *, quick: bool = False, progress: Progress = lambda done, total: None
) -> list[Finding]:
    """Check every file (sha256; where one differs, which blocks of frames changed, by crc32c) and every value in it.

    `quick`: only that the files are there in full size. [] when all is well. The index itself was checked when it was
    opened; commit records hold their own digest.
    """
    # A module is measured on what it has learnt from if copies of one recording lie in several splits.
    copies = across_splits((track.id, track.split, track.sha256) for track in cache.tracks)
    findings = [*loud_tracks(cache.tracks), *(Finding("warning", "splits", problem) for problem in copies)]
    values, done, total = ValueCheck(cache), 0, sum(shard.num_frames for shard in cache.shards)
    for shard in cache.shards:
        if quick:
            findings += _sizes(cache, shard)
        else:
            with _on_disk(cache, shard) as folder:
                damages = _verify_files(cache, shard, folder)
                findings += damages
                if not damages:
                    findings += _verify_values(cache, shard, folder, values)
        done += shard.num_frames
        progress(done, total)
    if not quick and not any(finding.severity == "damage" for finding in findings):
        findings += values.whole()
    return findings


def _verify_values(cache: LatentCache, shard: Shard, folder: Path, values: ValueCheck) -> Iterator[Finding]:
    try:
        arrays = arrays_on_disk(folder, shard, cache.format, cache.format.names)
    except CacheError as error:  # a description that is not ours, though the index promises these bytes
        yield _damage(shard, str(error.where), error.what if error.value is None else f"{error.what}: {error.value}")
        return
    tracks = [{name: those[number] for name, those in arrays.items()} for number in range(len(shard.tracks))]
    joined = {name: np.concatenate([latents_of(track, name) for track in tracks]) for name in cache.streams}
    yield from values.add(shard, joined)


@contextmanager
def _on_disk(cache: LatentCache, shard: Shard) -> Iterator[Path]:
    """The folder below which a shard's files lie; behind a URL, a copy of one shard for as long as it is looked at."""
    if not is_url(cache.origin):
        yield cache.path
        return
    store = open_store(cache.origin)
    with TemporaryDirectory(prefix="reencoder-verify-") as name:
        for file in (*shard.files, record_name(shard.key)):
            if store.size(file) is not None:
                store.download(file, Path(name) / file)
        yield Path(name)


def _sizes(cache: LatentCache, shard: Shard) -> Iterator[Finding]:
    store = open_store(cache.origin)
    for name, (size, _) in shard.files.items():
        found = store.size(name)
        if found != size:
            yield _damage(shard, name, "missing" if found is None else f"{found} bytes instead of {size}")


def _verify_files(cache: LatentCache, shard: Shard, folder: Path) -> list[Finding]:
    damages = []
    for name, (size, digest) in shard.files.items():
        path = folder / name
        if not path.is_file():
            damages.append(_damage(shard, name, "missing"))
        elif path.stat().st_size != size:
            damages.append(_damage(shard, name, f"{path.stat().st_size} bytes instead of {size}"))
        elif file_digest(path) != digest:
            damages.append(_damage(shard, name, f"content changed: {_changed_blocks(cache, shard, folder, name)}"))
    name = record_name(shard.key)
    if (folder / name).exists():
        parsed = parse_record(open_store(folder).read(name))
        if parsed is None:
            damages.append(_damage(shard, name, "commit record damaged"))
        elif parsed.shard != shard:
            what = "of another shard" if parsed.shard.key != shard.key else "not that of the index"
            damages.append(_damage(shard, name, f"commit record is {what} ({parsed.shard.key})"))
    return damages


def _damage(shard: Shard, file: str, problem: str) -> Finding:
    return Finding("damage", "files", problem, shard=shard.key, file=file)


def verify_autoencoder(cache: LatentCache, spec: LatentSpec) -> list[Finding]:
    """Whether these are latents of this autoencoder: its weights, sample rate, hop, channels and stereo mode."""
    return [
        Finding("damage", "autoencoder", f"{name}: {mine!r} in the cache, {theirs!r} in {spec.autoencoder}")
        for name, (mine, theirs) in cache.spec.differences(spec).items()
        if name != "autoencoder"  # a file of weights may have been renamed: its digest says what it is
    ]


def discard(cache: LatentCache, findings: list[Finding]) -> int:
    """Forget the commit records of damaged shards and the index, so that the next build makes them again."""
    keys = {finding.shard for finding in findings if finding.severity == "damage" and finding.shard is not None}
    store = open_store(cache.origin)
    for key in keys:
        if (store.read(record_name(key)) or b"").startswith(RECORD_BEGINS):  # a file that is no record of ours stays
            store.remove(record_name(key))
    if keys:
        store.remove(INDEX)
    return len(keys)


def _changed_blocks(cache: LatentCache, shard: Shard, folder: Path, file: str) -> str:
    names = data_files(shard, cache.format, cache.format.names).get(file, [])
    try:
        arrays = arrays_on_disk(folder, shard, cache.format, names)
    except CacheError as error:
        return error.what
    spans = [
        f"{name}, frames {block * CHUNK_FRAMES} to {min((block + 1) * CHUNK_FRAMES, shard.num_frames)}"
        for name, tracks in arrays.items()
        for block, (found, promised) in enumerate(
            zip(block_checksums(np.concatenate(tracks)), shard.blocks[name], strict=True)
        )
        if found != promised
    ]
    return "; ".join(spans[:5]) or "outside the frames"


def conclusion(cache: LatentCache, findings: list[Finding]) -> Iterator[str]:
    """Lines for a person."""
    words = {"damage": "damaged", "warning": "warning", "note": "measured"}
    for finding in findings:
        where = "" if finding.check == "edges" else f"{finding.file}: "
        yield f"{words[finding.severity]}: {where}{finding.problem}"
    damaged = {finding.shard for finding in findings if finding.severity == "damage"}
    warnings = sum(finding.severity == "warning" for finding in findings)
    lost = f"{len(damaged - {None})} damaged" + (", and the cache as a whole" if None in damaged else "")
    yield f"{len(cache.shards)} shards checked, {lost}" + (f"; {warnings} warnings" if warnings else "")
