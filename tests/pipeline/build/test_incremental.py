"""A corpus that changed: only that is encoded, and the cache is the one that a fresh build makes of the new corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from changing_songs import ONE, SONGS, change, songs_in_a_folder, write_song  # noqa: F401, a fixture
from encode_here import noting_what_is_encoded  # noqa: F401, a fixture
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.weights import save_vocos
from reencoder_pipeline.build.local_workers import run_jobs
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.inspection.verify import verify_cache
from tiny_build import SHAPE, build, tree


def keys(cache: Path) -> list[str]:
    return [shard.key for shard in open_cache(cache).shards]


def test_the_largest_shards_are_made_first(
    songs: Path, tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str]
) -> None:
    """A large one that begins last leaves all cores but one idle."""
    build(songs, tmp_path / "cache", tiny_autoencoder, **ONE)
    sizes = {track.id: shard.num_frames for shard in open_cache(tmp_path / "cache").shards for track in shard.tracks}
    made = [sizes[name] for name in encodes_here]
    assert len(set(made)) > 2
    assert made == sorted(made, reverse=True)


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
def test_only_what_changed_is_encoded_and_the_cache_is_that_of_a_fresh_build(
    songs: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
    storage: str,
) -> None:
    out, fresh = tmp_path / "cache", tmp_path / "fresh"
    first = build(songs, out, tiny_autoencoder, format=storage, **ONE)
    assert (first.encoded, first.reused, first.kept) == (len(SONGS), 0, 0)
    assert sorted(encodes_here) == SONGS
    assert first.built > 3
    before = keys(out)
    encodes_here.clear()
    change(songs)
    second = build(songs, out, tiny_autoencoder, format=storage, **ONE)
    assert sorted(encodes_here) == ["a new.wav", "e.wav"]
    assert second.encoded == 2
    in_kept_shards = second.num_tracks - second.encoded - second.reused
    assert second.reused > 1
    assert in_kept_shards == sum(len(shard.tracks) for shard in open_cache(out).shards if shard.key in before)
    build(songs, fresh, tiny_autoencoder, format=storage, **ONE)
    assert open_cache(out).digest == open_cache(fresh).digest
    assert tree(out) == tree(fresh)  # records too, and nothing of the old shards is left
    assert verify_cache(open_cache(out)) == []


def test_a_track_that_goes_and_comes_back_is_the_same_cache(
    songs: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    out = tmp_path / "cache"
    build(songs, out, tiny_autoencoder, **ONE)
    whole = tree(out)
    (songs / "d.wav").rename(tmp_path / "d.wav")
    build(songs, out, tiny_autoencoder, **ONE)
    assert "d.wav" not in {track.id for track in open_cache(out).tracks}
    (tmp_path / "d.wav").rename(songs / "d.wav")
    encodes_here.clear()
    build(songs, out, tiny_autoencoder, **ONE)
    assert encodes_here == ["d.wav"]
    assert tree(out) == whole


def test_the_old_cache_can_be_read_until_the_new_index_replaces_it(
    songs: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    out = tmp_path / "cache"
    build(songs, out, tiny_autoencoder, **ONE)
    before = open_cache(out).digest
    change(songs)

    def killed(*arguments: Any) -> Any:
        for record in run_jobs(*arguments, workers=1):
            yield record
            assert verify_cache(open_cache(out)) == []
            assert open_cache(out).digest == before
        raise InterruptedError

    with pytest.raises(InterruptedError):
        build(songs, out, tiny_autoencoder, run=killed, **ONE)
    assert open_cache(out).digest == before
    result = build(songs, out, tiny_autoencoder, **ONE)
    assert result.built == 0
    assert open_cache(out).digest != before


def test_frames_that_were_damaged_are_encoded_and_not_copied(
    songs: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    out, fresh = tmp_path / "cache", tmp_path / "fresh"
    build(songs, out, tiny_autoencoder, **ONE)
    cache = open_cache(out)
    moved = next(track for track in cache.tracks if track.id == "c.wav")
    (data,) = (out / "shards" / moved.shard / "mono").rglob("0/0")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    write_song(songs / "b.wav", seed=30)
    (songs / "c.wav").rename(songs / "bb.wav")
    encodes_here.clear()
    build(songs, out, tiny_autoencoder, **ONE)
    assert {"b.wav", "bb.wav"} <= set(encodes_here)
    assert len(encodes_here) < len(SONGS)
    build(songs, fresh, tiny_autoencoder, **ONE)
    assert tree(out) == tree(fresh)


def test_shards_of_other_settings_are_never_copied_from(
    songs: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    """settings.json may be lost: what the tracks are made of stands in the records."""
    out = tmp_path / "cache"
    build(songs, out, tiny_autoencoder, **ONE)
    (out / "settings.json").unlink()
    encodes_here.clear()
    assert build(songs, out, tiny_autoencoder, **ONE, segment_seconds=1.0).encoded == len(SONGS)
    assert sorted(encodes_here) == SONGS


def test_a_track_is_measured_anew_when_its_manifest_says_something_else(
    songs: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    manifest, out = tmp_path / "songs.jsonl", tmp_path / "cache"

    def write(**row: Any) -> None:
        rows = [{"path": str(songs / name), "id": name} for name in ("b.wav", "c.wav", "d.wav")]
        manifest.write_text("".join(json.dumps({**r, **(row if r["id"] == "c.wav" else {})}) + "\n" for r in rows))

    write(split="train", tasks=["bwe"])
    build(manifest, out, tiny_autoencoder, **ONE)
    encodes_here.clear()
    write(split="valid", tasks=["bwe"])  # a split is about the corpus, not about the track
    assert build(manifest, out, tiny_autoencoder, **ONE).reused == 3
    assert encodes_here == []
    write(split="valid")
    assert build(manifest, out, tiny_autoencoder, **ONE).encoded == 1
    assert encodes_here == ["c.wav"]
    assert open_cache(out).tracks[1].tasks == open_cache(out).tracks[0].tasks  # measured now, not what it was told


def test_tasks_and_autoencoders_share_a_source_each_in_a_cache_of_its_own(
    songs: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    """Within every shard of one build, the others are built from start to end."""
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_vocos(Vocos(SHAPE), other, training={})
    for name in SONGS[3:]:
        (songs / name).unlink()
    before = tree(songs)
    wanted: dict[str, tuple[Path, dict[str, Any]]] = {
        "bwe": (tiny_autoencoder, {"streams": ["mono", "low_band"]}),
        "m2s": (tiny_autoencoder, {"streams": ["mono", "left", "right"]}),
        "other": (other, {"streams": ["mono", "low_band"]}),
    }
    alone = {}
    for name, (autoencoder, settings) in wanted.items():
        build(songs, tmp_path / "alone" / name, autoencoder, **settings)
        alone[name] = tree(tmp_path / "alone" / name)

    def nested(*arguments: Any) -> Any:
        for record in run_jobs(*arguments, workers=1):
            for name, (autoencoder, its) in list(wanted.items())[1:]:
                build(songs, tmp_path / "together" / name, autoencoder, **its)
            yield record

    build(songs, tmp_path / "together" / "bwe", tiny_autoencoder, run=nested, **wanted["bwe"][1])
    assert {name: tree(tmp_path / "together" / name) for name in wanted} == alone
    assert tree(songs) == before
    frames = {name: open_cache(tmp_path / "together" / name) for name in wanted}
    a, b = (frames[name].read(frames[name].tracks[0], "mono") for name in ("bwe", "m2s"))
    assert np.array_equal(a, b)
