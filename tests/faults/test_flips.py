"""Single flipped bits: verification, opening or building names every one, and a checked read lets none through."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from scene import EITHER_STORAGE, Tally, scene

from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache, open_index
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import verify_cache

Frames = dict[tuple[str, str], np.ndarray]  # track, stream


def flipped(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    changed[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def chosen(files: list[Path], dice: random.Random) -> Path:
    """Any file alike, or any byte alike."""
    return dice.choices(files, weights=[file.stat().st_size for file in files] if dice.random() < 0.5 else None)[0]


def flips_verified(storage: str, *, trials: int, seed: int) -> Tally:
    """Over all files: data, metadata, records, the index, settings and failures."""
    dice, tally = random.Random(seed), Tally("flipped bit: verify", storage)
    with scene().copy(storage) as out:
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        for _ in range(trials):
            file = chosen(files, dice)
            content = file.read_bytes()
            file.write_bytes(flipped(content, dice))
            tally.trials += 1
            _verify(out, file, content, tally)
            file.write_bytes(content)
    return tally


def _verify(out: Path, file: Path, before: bytes, tally: Tally) -> None:
    name = file.relative_to(out).as_posix()
    if name in ("settings.json", "failures.jsonl"):  # of the build alone
        ended = scene().build(out, tally.storage)
        noticed = ended.code == 2 and (name in ended.error or "other settings" in ended.error)
        tally.recovered += name == "failures.jsonl" and scene().differences(out, tally.storage) == []
    elif name == "index.json":
        noticed = _is_refused(out)
    else:
        found = [finding for finding in verify_cache(open_index(out)) if finding.severity == "damage"]
        noticed = [finding.file for finding in found] == [name]
    tally.noticed += noticed
    if noticed or name == "failures.jsonl":
        return
    if says_the_same(file.read_bytes(), before):
        tally.harmless += 1
    else:
        tally.wrong.append(f"a bit of {name}")


def _is_refused(out: Path) -> bool:
    try:
        open_index(out)
    except CacheError:
        return True
    return False


def says_the_same(now: bytes, before: bytes) -> bool:
    """The last of 17 digits may make no difference to a number; an index whose digest has another name has none."""
    try:
        mine, whole = json.loads(now), json.loads(before)
    except ValueError:
        return False
    return mine == whole or whole.items() - mine.items() == {("digest", whole.get("digest"))}


def flips_read(storage: str, *, trials: int, seed: int) -> Tally:
    """In the files with frames, read with `checked`: an error, or else the very same frames."""
    dice, tally = random.Random(seed), Tally("flipped bit: checked read", storage)
    with scene().copy(storage) as out:
        cache = open_cache(out)
        files = sorted(
            {out / cache.format.data_name(shard.key, stream) for shard in cache.shards for stream in cache.streams}
        )
        tracks = {
            out / cache.format.data_name(shard.key, s): shard.tracks for shard in cache.shards for s in cache.streams
        }
        whole = {file: _frames(cache, tracks[file]) for file in files}
        for _ in range(trials):
            file = chosen(files, dice)
            content = file.read_bytes()
            file.write_bytes(flipped(content, dice))
            tally.trials += 1
            try:
                found = _frames(open_cache(out, checked=True), tracks[file])
            except CacheError:
                tally.noticed += 1
            except Exception as error:
                tally.wrong.append(f"{file.name}: {error!r}")
            else:
                same = all(np.array_equal(found[key], frames) for key, frames in whole[file].items())
                tally.harmless += same
                tally.wrong += [] if same else [f"{file.name}: other frames, and no error"]
            file.write_bytes(content)
    return tally


def _frames(cache: LatentCache, tracks: tuple[CachedTrack, ...]) -> Frames:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged footer: read through Zarr instead
        return {(track.id, stream): cache.read(track, stream) for track in tracks for stream in cache.streams}


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_every_flipped_bit_is_noticed(storage: str) -> None:
    tally = flips_verified(storage, trials=150, seed=0)
    assert tally.wrong == []
    assert tally.noticed > 120
    assert tally.noticed + tally.harmless + tally.recovered == tally.trials


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_no_flipped_bit_gets_through_a_checked_read(storage: str) -> None:
    tally = flips_read(storage, trials=100, seed=0)
    assert tally.wrong == []
    assert tally.noticed > 50  # the others lie in padding and headers
    assert tally.noticed + tally.harmless == tally.trials
