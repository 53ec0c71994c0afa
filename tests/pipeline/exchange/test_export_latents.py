"""Latents become files that stable-audio-tools reads; an export goes on where it stopped."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from exchanged import bring_in, export, stop
from reencoder_pipeline.cache.formats.zarr_shards import data_file
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.exchange import export_latents
from reencoder_pipeline.exchange.stable_audio_format import Origin, fields_of
from reencoder_pipeline.shards import write_shard
from reencoder_pipeline.stores.digests import canonical_digest
from stable_audio_folder import batch, read_dataset
from tiny_build import leftovers, tree
from tiny_cache import SPEC, STREAMS, write_cache

# Export


def test_every_item_reads_as_stable_audio_tools_reads_it(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*STREAMS, "details.json", "manifest.jsonl"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    for stream in STREAMS:
        items = read_dataset(tmp_path / "out" / stream)
        assert len(items) == len(cache.tracks)
        for track, (latents, info) in zip(cache.tracks, items, strict=True):
            assert np.array_equal(latents.numpy().T, cache.read(track, stream))
            assert info["relpath"] == track.id
            assert info["padding_mask"][0].tolist() == [1] * track.num_frames
    for row in rows:
        track = next(track for track in cache.tracks if track.id == row["id"])
        assert (row["sha256"], row["split"]) == (track.sha256, track.split)
        assert row["latent_spec"] == canonical_digest(cache.spec.to_dict())
        assert row["file"].startswith(row["stream"] + "/")
        assert np.load(tmp_path / "out" / row["file"]).shape == (SPEC.channels, track.num_frames)
    assert len(rows) == len(STREAMS) * len(cache.tracks)


def test_fields_say_where_in_its_file_an_item_lies() -> None:
    """65.5 s of audio; 43.07 frames a second. The second item begins at 29.72 s, the last one is padded."""
    origin = {"id": "a.wav", "sha256": "0" * 64, "split": "train", "stream": "mono", "latent_spec": "x", "tasks": []}
    origin |= {"bandwidth_hz": None, "side_mid_db": None, "track_samples": 2_888_000}
    second = Origin(**origin, first_frame=1280, num_samples=1280 * 1024)
    fields = fields_of(second, SPEC, length=1280)
    assert (fields["seconds_start"], fields["seconds_total"]) == (29, 66)
    assert fields["timestamps"] == [1280 * 1024 / 2_888_000, 2 * 1280 * 1024 / 2_888_000]
    assert fields["padding_mask"] == [1] * 1280
    last = fields_of(Origin(**origin, first_frame=2560, num_samples=2_888_000 - 2560 * 1024), SPEC, length=1280)
    assert last["padding_mask"] == [1] * 261 + [0] * 1019  # 260.3 frames
    assert last["timestamps"][1] == 1.0


def test_items_of_one_length_make_batches(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "out", streams=["mono"], length=64)
    latents, masks = batch(read_dataset(tmp_path / "out" / "mono"))
    assert latents.shape == (sum(-(-t.num_frames // 64) for t in cache.tracks), SPEC.channels, 64)
    assert int(masks.sum()) == sum(track.num_frames for track in cache.tracks)
    joined = np.concatenate([cache.read(track, "mono") for track in cache.tracks])
    assert np.array_equal(latents.transpose(1, 2)[masks.bool()].numpy(), joined)
    assert not latents.transpose(1, 2)[~masks.bool()].any()
    cropped, _ = batch(read_dataset(tmp_path / "out" / "mono", crop=10))
    assert torch.equal(cropped, latents[:, :, :10])


def test_streams_and_splits_are_chosen_and_names_stay(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "all")
    export(cache.path, tmp_path / "some", streams=["left"], splits=["valid"])
    items = {name: content for name, content in tree(tmp_path / "some").items() if name.startswith("left/")}
    assert len(items) == 2 * sum(track.split == "valid" for track in cache.tracks)
    assert items.items() <= tree(tmp_path / "all").items()
    for options in ({"streams": ["stereo"]}, {"splits": ["training"]}, {"splits": ["test"]}):
        with pytest.raises(CacheError, match=r"no such|no tracks"):
            export(cache.path, tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs/olute.wav", "a.npy/b.npy", "Ängste\n\u2028.wav", "x" * 300, "\udcff"]
)
def test_names_of_files_are_safe_and_ids_come_back(tmp_path: Path, name: str) -> None:
    source = write_cache(tmp_path / "cache", valid_frames=())
    index = (source / "index.json").read_text()
    (source / "index.json").write_text(index.replace('"train-1"', json.dumps(name)))
    export(source, tmp_path / "deep" / "out", streams=["mono"])
    names = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "deep" / "out" / "mono").iterdir()]
    assert len(names) == 12
    assert all(name.isascii() and name.isprintable() and name.count(".") == 1 and len(name) < 120 for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "deep"}
    read_dataset(tmp_path / "deep" / "out" / "mono")
    _, failures = bring_in({"mono": tmp_path / "deep" / "out" / "mono"}, tmp_path / "back")
    assert failures == []
    assert name in [track.id for track in open_cache(tmp_path / "back").tracks]


def test_an_export_goes_on_and_nothing_else_is_touched(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        export(cache.path, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    torn = next((tmp_path / "out" / "mono").glob("*.json"))
    torn.unlink()  # killed between the two files of an item
    done = export(cache.path, tmp_path / "out")
    assert (done.items_written, done.items_kept) == (1 + 2 * 4, 6 * 4 - 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert leftovers(tmp_path / "out") == []
    with pytest.raises(CacheError, match="begun with other settings"):
        export(cache.path, tmp_path / "out", length=64)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="neither empty nor"):
        export(cache.path, tmp_path / "mine")
    assert tree(tmp_path / "mine") == {"notes.txt": b""}


def test_damaged_latents_are_not_exported(cache: LatentCache, tmp_path: Path) -> None:
    source = Path(shutil.copytree(cache.path, tmp_path / "cache"))
    file = data_file(source / "shards" / "valid", "mono")
    content = bytearray(file.read_bytes())
    content[7] ^= 4
    file.write_bytes(content)
    with pytest.raises(CacheError, match="not what the index says"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_a_full_disk_is_one_clear_error(cache: LatentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export_latents, "write_whole", no_room)
    with pytest.raises(CacheError, match="disk is full"):
        export(cache.path, tmp_path / "out")
    monkeypatch.undo()
    export(cache.path, tmp_path / "out")
    monkeypatch.setattr(write_shard, "write_record", no_room)
    with pytest.raises(CacheError, match="disk is full"):
        bring_in({"mono": tmp_path / "out" / "mono"}, tmp_path / "back")
