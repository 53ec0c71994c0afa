"""The whole stage: a folder of music becomes a cache, and a corpus that changed becomes one with as little work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from command_line import reencoder_cache, run_apart
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.build.build import plan_build
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.encoding.encode_tracks import encode_track
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.seams import check_edges
from reencoder_pipeline.shards.make_shard import build_shard
from reencoder_pipeline.stores.atomic import scratch_owner
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.writer_id import owner
from tiny_build import MUSIC, NUM_SHARDS, Built, build, copied, scratch_name, tiny_config, tree
from tiny_build import music as render

STORAGES = ["zarr", "webdataset"]
STREAMS = ("mono", "low_band", "left", "right")


@pytest.fixture
def cache(request: pytest.FixtureRequest, built: Built) -> LatentCache:
    return open_cache(built(getattr(request, "param", "zarr")))


# What a build makes


@pytest.mark.parametrize("cache", STORAGES, indirect=True)
def test_every_track_is_there_whole_with_every_stream(cache: LatentCache, music: Path) -> None:
    assert sorted(track.id for track in cache.tracks) == sorted(MUSIC)
    assert cache.streams == STREAMS
    assert len(cache.shards) == NUM_SHARDS
    assert (cache.path / "failures.jsonl").read_text() == ""
    for track in cache.tracks:
        rate, channels, _ = MUSIC[track.id]
        info = soundfile.info(music / track.id)
        assert track.num_samples == -(-info.frames * 44_100 // rate)
        assert track.num_frames == cache.spec.num_frames(track.num_samples)
        streams = {name: cache.read(track, name) for name in STREAMS}
        assert {frames.shape for frames in streams.values()} == {(track.num_frames, 8)}
        assert all(np.isfinite(frames).all() for frames in streams.values())
        assert np.array_equal(streams["left"], streams["right"]) == (channels == 1 or track.id == "zeros.wav")


@pytest.mark.parametrize("cache", STORAGES, indirect=True)
def test_frames_are_what_the_autoencoder_says(cache: LatentCache, music: Path, tiny_autoencoder: Path) -> None:
    config = tiny_config(tiny_autoencoder)
    autoencoder = load_autoencoder(str(tiny_autoencoder))
    corpus = assign_splits(read_corpus(music), valid_share=config.valid_share, test_share=config.test_share)
    chosen = {track.id: track for track in corpus if track.id in ("fourth.FLAC", "album.2/third [live] (2).mp3")}
    for cached in cache.tracks:
        if cached.id in chosen:
            encoded = encode_track(autoencoder, chosen[cached.id], EncodeSettings.of(config))
            assert (cached.split, cached.tasks) == (encoded.track.split, encoded.tasks)
            for name in STREAMS:
                # Not equal to the bit: torch may choose other instructions in a process with more threads.
                np.testing.assert_allclose(cache.read(cached, name), encoded.streams[name], atol=2e-3)


def test_both_formats_hold_the_same_frames(built: Built) -> None:
    zarr, tars = (open_cache(built(storage)) for storage in STORAGES)
    assert [t.id for t in zarr.tracks] == [t.id for t in tars.tracks]
    for a, b in zip(zarr.tracks, tars.tracks, strict=True):
        assert all(np.array_equal(zarr.read(a, name), tars.read(b, name)) for name in STREAMS)


@pytest.mark.parametrize("cache", STORAGES, indirect=True)
def test_statistics_are_those_of_the_train_split(cache: LatentCache) -> None:
    train = [track for track in cache.tracks if track.split == "train"]
    assert 0 < len(train) < len(cache.tracks)
    for name in STREAMS:
        frames = np.concatenate([cache.read(track, name) for track in train]).astype(np.float64)
        np.testing.assert_allclose(cache.statistics[name].mean, frames.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(cache.statistics[name].std, frames.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_second_run_keeps_every_shard(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path, storage: str
) -> None:
    out = copied(built(storage), tmp_path / "cache")
    before = {path: path.stat().st_ino for path in out.rglob("*") if path.is_file() and "shards" in path.parts}
    result = build(music, out, tiny_autoencoder, format=storage)
    assert (result.built, result.kept, result.num_tracks) == (0, NUM_SHARDS, len(MUSIC))
    assert {path: path.stat().st_ino for path in before} == before
    assert tree(out) == tree(built(storage))


def test_the_index_is_written_last(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    (out / "index.json").unlink()
    (out / "failures.jsonl").unlink()
    with pytest.raises(CacheError, match=r"(?s)not complete.*same `reencoder-cache build` again"):
        open_cache(out)
    written, original = [], FolderStore.write

    def note(store: FolderStore, name: str, content: bytes) -> None:
        written.append((name, len(list((out / "shards").glob("*.json")))))
        original(store, name, content)

    monkeypatch.setattr(FolderStore, "write", note)
    build(music, out, tiny_autoencoder)
    assert written == [("failures.jsonl", NUM_SHARDS), ("index.json", NUM_SHARDS)]


def test_a_shard_is_synced_then_put_in_place_then_recorded(
    music: Path, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loss of power would show, and kill -9 cannot: the order in which things are made durable."""
    manifest, config = tmp_path / "tracks.txt", tiny_config(tiny_autoencoder)
    manifest.write_text(str(music / "short.wav"))
    (job,) = plan_build(manifest, config).jobs
    events: list[tuple[str, str]] = []
    sync, rename, move = os.fsync, Path.rename, Path.replace

    def noted_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path / "shards")
        events.append(("sync", "/".join("scratch" if scratch_owner(part) == owner() else part for part in path.parts)))
        sync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(("place", target.name))
        return rename(path, target)

    def noted_replace(path: Path, target: Path) -> Path:
        events.append(("place", target.name))
        return move(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    monkeypatch.setattr(Path, "replace", noted_replace)
    autoencoder = load_autoencoder(str(tiny_autoencoder))
    form = ShardFormat.of(config, channels=autoencoder.spec.channels)
    build_shard(job, autoencoder, tmp_path, settings=EncodeSettings.of(config), form=form)
    written = {path.relative_to(tmp_path / "shards" / job.key) for path in (tmp_path / "shards" / job.key).rglob("*")}
    record = f"{job.key}.json"
    placed = events.index(("place", job.key))
    assert {name for kind, name in events[:placed] if kind == "sync"} == {
        (Path("scratch") / path).as_posix() for path in (*written, Path())
    }
    assert events[placed + 1 :] == [
        ("sync", ""),
        ("sync", "scratch"),
        ("place", record),
        ("sync", ""),
    ]


def test_the_number_of_workers_changes_nothing(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    build(music, tmp_path / "cache", tiny_autoencoder, workers=2)
    assert open_cache(tmp_path / "cache").digest == open_cache(built("zarr")).digest
    assert tree(tmp_path / "cache") == tree(built("zarr"))


def test_what_a_killed_build_left_is_swept_away(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    key = open_cache(out).shards[0].key
    gone = key[::-1]
    for name in (f"shards/{scratch_name()}/mono/zarr.json", f"shards/{gone}/mono/zarr.json"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("torn")
    for name in (f"shards/{scratch_name()}", f"shards/{gone}.tar", scratch_name()):
        (out / name).write_text("torn")
    assert build(music, out, tiny_autoencoder).kept == NUM_SHARDS
    assert tree(out) == tree(built("zarr"))


# Corpora that change


def keys(source: Path, autoencoder: Path, **settings: Any) -> list[str]:
    return [job.key for job in plan_build(source, tiny_config(autoencoder, **settings)).jobs]


def test_the_keys_of_shards_tell_what_they_are_made_of(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere" / "music"
    shutil.copytree(music, folder)
    before = [shard.key for shard in open_cache(built("zarr")).shards]
    assert keys(folder, tiny_autoencoder) == before  # not of the place
    assert keys(folder, tiny_autoencoder, workers=2) == before
    soundfile.write(folder / "mono.wav", render(seconds=6.1, rate=22_050, channels=1, seed=99).T, 22_050)
    after = keys(folder, tiny_autoencoder)
    assert sum(key in before for key in after) == NUM_SHARDS - 1
    assert len(after) == NUM_SHARDS


def test_what_a_manifest_promises_belongs_to_the_key(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    """Or a promise that was wrong, and so made a good file fail, could never be corrected."""
    manifest = tmp_path / "tracks.jsonl"
    found = set()
    rows: list[dict[str, Any]] = [
        {},
        {"num_samples": 2205},
        {"num_samples": 9999},
        {"split": "test"},
        {"tasks": ["bwe"]},
    ]
    for row in rows:
        manifest.write_text(json.dumps({"id": "short", "path": str(music / "short.wav"), **row}) + "\n")
        found |= set(keys(manifest, tiny_autoencoder))
    assert len(found) == len(rows)


def test_tasks_of_the_configuration_are_for_every_track(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "tracks.jsonl"
    names = {"mono.wav": ["m2s"], "short.wav": [], "zeros.wav": None}
    manifest.write_text("".join(json.dumps({"path": str(music / n), "tasks": t}) + "\n" for n, t in names.items()))
    autoencoder = load_autoencoder(str(tiny_autoencoder))
    for tasks, expected in (("measured", [("m2s",), ()]), (["bwe"], [("bwe",)] * 3)):
        config = tiny_config(tiny_autoencoder, tasks=tasks)
        planned = plan_build(manifest, config)
        tracks = [track for job in planned.jobs for track in job.tracks]
        assert [encode_track(autoencoder, track, EncodeSettings.of(config)).tasks for track in tracks] == expected
        assert planned.num_unsuited == len(names) - len(expected)


def test_the_middles_of_tracks_are_planned_encoded_and_verified(
    music: Path, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    planned = plan_build(music, tiny_config(tiny_autoencoder, track_seconds=2.0))
    assert set(keys(music, tiny_autoencoder)).isdisjoint(job.key for job in planned.jobs)
    build(music, tmp_path / "cache", tiny_autoencoder, track_seconds=2.0)
    cache = open_cache(tmp_path / "cache")
    assert sum(shard.num_frames for shard in cache.shards) == planned.num_frames
    assert {track.num_samples for track in cache.tracks} == {2 * 44_100, 2_205}
    tiny = load_autoencoder(str(tiny_autoencoder))
    assert {finding.severity for finding in check_edges(cache, tiny, music, samples=9, seed=0)} == {"note"}


# The command line


def test_the_command_line_from_plan_to_verify(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    config = tmp_path / "cache.yaml"
    config.write_text(json.dumps(tiny_config(tiny_autoencoder).model_dump()))  # JSON is YAML

    planned = reencoder_cache("plan", music, "--config", config, "--no-calibrate", "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (plan["tracks"], plan["shards"], plan["unusable"]) == (len(MUSIC), NUM_SHARDS, [])

    done = reencoder_cache("build", music, "--out", out, "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)  # stdout holds nothing else
    assert (counts["shards_built"], counts["shards_kept"], counts["tracks"]) == (0, NUM_SHARDS, len(MUSIC))

    shown = reencoder_cache("inspect", out, "--json", "--tracks")
    assert shown.returncode == 0, shown.stderr
    summary = json.loads(shown.stdout)
    assert summary["digest"] == open_cache(out).digest
    assert [track["id"] for track in summary["track_list"]] == [track.id for track in open_cache(out).tracks]

    sound = reencoder_cache("verify", out, "--json")
    assert (sound.returncode, json.loads(sound.stdout)) == (0, [])
    victim = next(path for path in sorted(out.rglob("0")) if path.is_file())
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.unlink()
    victim.write_bytes(content)
    damaged = reencoder_cache("verify", out, "--json", "--discard")
    assert damaged.returncode == 3
    (damage,) = json.loads(damaged.stdout)
    assert damage["file"] == victim.relative_to(out).as_posix()
    assert reencoder_cache("inspect", out).returncode == 2  # discarded: no index, no cache


AT_ONCE = [["--help"], ["build", "--help"], ["build", "x", "--out", "y", "--set", "z=1"]]


@pytest.mark.parametrize("arguments", AT_ONCE, ids=str)
def test_help_and_mistakes_answer_at_once(arguments: list[str]) -> None:
    """By what they import: a processor's seconds are its own."""
    done = run_apart("reencoder-cache", *arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == (2 if "--set" in arguments else 0)
    assert "import time:" in done.stderr
    imported = {line.split()[-1] for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert imported.isdisjoint({"torch", "zarr", "numpy", "soundfile"})
    assert ("reencoder_pipeline.config" in imported) == ("--set" in arguments), "building its models takes a moment"
