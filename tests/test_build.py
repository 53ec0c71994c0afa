"""The whole stage: a folder of music becomes a cache, and nothing that happens on the way leaves a wrong one."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from conftest import Built
from reencoder_pipeline import build as build_module
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.weights import save_vocos
from reencoder_pipeline.build import plan_build
from reencoder_pipeline.cache import LatentCache, open_cache
from reencoder_pipeline.commit import build_lock
from reencoder_pipeline.corpus import assign_splits, read_corpus
from reencoder_pipeline.errors import AutoencoderError, CacheError, CorpusError
from reencoder_pipeline.shard import build_shard, encode_track
from tiny_build import MUSIC, NUM_SHARDS, build, tiny_config, tree
from tiny_build import music as render

STORAGES = ["zarr", "webdataset"]
STREAMS = ("mono", "low_band", "left", "right")


def shard_files(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if name.startswith("shards/")}


def copied(folder: Path, to: Path) -> Path:
    """Hard links: a build replaces files and never writes into them; whoever damages one unlinks it first."""
    return Path(shutil.copytree(folder, to, copy_function=os.link))


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
            encoded = encode_track(autoencoder, chosen[cached.id], config)
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
    written, original = [], build_module.write_text

    def note(path: Path, text: str) -> None:
        written.append((path.name, len(list((out / "shards").glob("*.json")))))
        original(path, text)

    monkeypatch.setattr(build_module, "write_text", note)
    build(music, out, tiny_autoencoder)
    assert written == [("failures.jsonl", NUM_SHARDS), ("index.json", NUM_SHARDS)]


def test_a_shard_is_synced_then_put_in_place_then_recorded(
    music: Path, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loss of power would show, and kill -9 cannot: the order in which things are made durable."""
    manifest, config = tmp_path / "tracks.txt", tiny_config(tiny_autoencoder)
    manifest.write_text(str(music / "short.wav"))
    (job,) = plan_build(manifest, config).jobs
    (tmp_path / "shards").mkdir()
    events: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.rename

    def noted_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("sync", path.relative_to(tmp_path / "shards").as_posix()))
        sync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    build_shard(job, load_autoencoder(str(tiny_autoencoder)), tmp_path, config)
    partial, placed = f"{job.key}.{os.getpid()}.partial", events.index(("rename", job.key))
    written = {path.relative_to(tmp_path / "shards" / job.key) for path in (tmp_path / "shards" / job.key).rglob("*")}
    assert {name for kind, name in events[:placed] if kind == "sync"} >= {
        (Path(partial) / path).as_posix() for path in (*written, Path())
    }
    record = f"{job.key}.json"
    assert events[placed + 1 :] == [
        ("sync", "."),
        ("sync", f"{record}.{os.getpid()}.partial"),
        ("rename", record),
        ("sync", "."),
    ]


def test_the_number_of_workers_changes_nothing(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    build(music, tmp_path / "cache", tiny_autoencoder, workers=2)
    assert open_cache(tmp_path / "cache").digest == open_cache(built("zarr")).digest
    assert tree(tmp_path / "cache") == tree(built("zarr"))


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


def test_a_corpus_that_grows_and_shrinks_keeps_what_did_not_change(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "music", copied(built("zarr"), tmp_path / "cache")
    shutil.copytree(music, folder)
    soundfile.write(folder / "zzz new.wav", render(seconds=1.0, seed=99).T, 44_100)
    result = build(folder, out, tiny_autoencoder)
    assert (result.built, result.kept) == (1, NUM_SHARDS - 1)  # the last shard has room for it
    assert len(open_cache(out).tracks) == len(MUSIC) + 1

    (folder / "zzz new.wav").unlink()
    result = build(folder, out, tiny_autoencoder)
    assert (result.built, result.kept) == (1, NUM_SHARDS - 1)
    assert tree(out) == tree(built("zarr"))  # stale shards and records are gone


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
        assert [encode_track(autoencoder, track, config).tasks for track in tracks] == expected
        assert planned.num_unsuited == len(names) - len(expected)


# Refusals


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"precision": "float32"}, "precision: 'float16' then, 'float32' now"),
        ({"streams": ["mono"]}, "streams"),
        ({"format": "webdataset"}, "format: 'zarr' then, 'webdataset' now"),
        ({"resampler": "torchaudio_default", "low_band_rate": 16_000}, "resampler"),
        ({"segment_seconds": 2.0}, "segment_seconds: 1.5 then, 2.0 now"),
        ({"tasks": ["bwe"]}, "tasks"),
    ],
    ids=str,
)
def test_other_settings_need_another_folder(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    with pytest.raises(CacheError, match="was built with other settings") as caught:
        build(music, out, tiny_autoencoder, **settings)
    assert all(name in str(caught.value) for name in (named, *settings))
    assert "another --out folder" in str(caught.value)
    assert tree(out) == tree(built("zarr"))


def test_other_weights_need_another_folder(built: Built, music: Path, tmp_path: Path) -> None:
    from tiny_build import SHAPE

    other = tmp_path / "tiny.safetensors"  # of the same name and shape
    save_vocos(Vocos(SHAPE), other, training={})
    out = copied(built("zarr"), tmp_path / "cache")
    with pytest.raises(CacheError, match=r"(?s)other settings.*weights: "):
        build(music, out, other)
    assert tree(out) == tree(built("zarr"))


def test_the_same_weights_elsewhere_are_the_same(
    built: Built, music: Path, tmp_path: Path, tiny_autoencoder: Path
) -> None:
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(tiny_autoencoder, tmp_path / "moved" / tiny_autoencoder.name)
    out = copied(built("zarr"), tmp_path / "cache")
    assert build(music, out, moved).built == 0


def test_damaged_settings_are_an_error(built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    for content in ("{", "[1]", ""):
        (out / "settings.json").unlink()
        (out / "settings.json").write_text(content)
        with pytest.raises(CacheError, match=r"settings\.json: is damaged"):
            build(music, out, tiny_autoencoder)


def test_two_builders_do_not_meet(built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    with build_lock(out), pytest.raises(CacheError, match="another build is running here"):
        build(music, out, tiny_autoencoder)
    assert build(music, out, tiny_autoencoder).built == 0  # and the lock is gone with its holder


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(music: Path, tiny_autoencoder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot write here"):
        build(music, tmp_path / name, tiny_autoencoder)


def test_nothing_to_encode_leaves_no_cache(tiny_autoencoder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        build(tmp_path / "gone", tmp_path / "cache", tiny_autoencoder)
    with pytest.raises(AutoencoderError, match="unknown autoencoder"):
        build(tmp_path, tmp_path / "cache", tmp_path / "gone.safetensors")
    with pytest.raises(CacheError, match=r"not complete|no latent cache"):
        open_cache(tmp_path / "cache")


def test_tracks_that_suit_nothing_are_an_error(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "tracks.jsonl"
    manifest.write_text(json.dumps({"path": str(music / "mono.wav"), "tasks": []}) + "\n")
    with pytest.raises(CacheError, match=r"(?s)not one track.*1 tracks that suit no task"):
        build(manifest, tmp_path / "cache", tiny_autoencoder)


# Bad files


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "reencoder_pipeline.cli", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **environment}
    return subprocess.run(line, capture_output=True, text=True, check=False, env=variables)


def bad_corpus(folder: Path, music: Path) -> dict[str, str]:
    """Every kind of bad file between good ones; name -> what has to be said of it."""
    (folder / "some").mkdir(parents=True)
    for name in ("mono.wav", "fourth.FLAC", "short.wav"):
        shutil.copy(music / name, folder / "some" / name)
    audio = render(seconds=1.0).T
    for name, kind in (("cut.wav", "WAV"), ("cut.mp3", "MP3"), ("cut.flac", "FLAC")):
        soundfile.write(folder / name, audio, 44_100, format=kind)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio\n" * 100)
    soundfile.write(folder / "nan.wav", np.where(np.arange(len(audio))[:, None] == 7, np.nan, audio), 44_100, "FLOAT")
    soundfile.write(folder / "surround.wav", np.repeat(audio, 3, axis=1), 44_100)
    soundfile.write(folder / "one.wav", audio[:1], 44_100)
    (folder / "link.wav").symlink_to(folder / "gone")
    (folder / os.fsdecode(b"some/caf\xe9.wav")).write_bytes((music / "short.wav").read_bytes())  # good, oddly named
    return {
        "cut.wav": "ends before its header says",
        "cut.mp3": "another length than its header says",
        "cut.flac": "cannot be read as audio",
        "empty.wav": "cannot be read as audio",
        "text.wav": "cannot be read as audio",
        "nan.wav": "not numbers",
        "surround.wav": "6 channels",
        "one.wav": "shorter than one latent frame",
        "link.wav": "no such audio file",
    }


def test_bad_files_are_named_and_not_tried_again(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "music", tmp_path / "cache"
    bad = bad_corpus(folder, music)
    result = build(folder, out, tiny_autoencoder, streams=["mono"])
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert list(result.failures) == rows
    assert sorted(row["id"] for row in rows) == sorted(bad)
    for row in rows:
        assert row["path"] == str(folder / row["id"])
        assert row["error"].startswith(f"{folder / row['id']}: ")
        assert bad[row["id"]] in row["error"]
    good = {os.fsdecode(b"some/caf\xe9.wav"), "some/mono.wav", "some/fourth.FLAC", "some/short.wav"}
    assert {track.id for track in open_cache(out).tracks} == good

    listing = command("inspect", out, "--tracks")  # also a name that no encoding can print
    assert listing.returncode == 0, listing.stderr
    assert listing.stdout.count("some/") == len(good)

    again = build(folder, out, tiny_autoencoder, streams=["mono"])
    assert (again.built, again.failures) == (0, result.failures)


def test_only_bad_files_is_an_error(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "music"
    bad_corpus(folder, music)
    shutil.rmtree(folder / "some")
    for name in ("cut.mp3", "cut.flac", "nan.wav", "one.wav"):  # which only decoding shows
        (folder / name).unlink()
    with pytest.raises(CacheError, match="not one track could be encoded") as caught:
        build(folder, tmp_path / "cache", tiny_autoencoder)
    assert f"5 failures, the first: {folder / 'cut.wav'}: ends before" in str(caught.value)
    assert len((tmp_path / "cache" / "failures.jsonl").read_text().splitlines()) == 5
    with pytest.raises(CacheError, match="not complete"):
        open_cache(tmp_path / "cache")


def test_a_file_that_goes_away_for_a_while_is_tried_again(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is unmounted during a build must not leave a record that says for ever: bad file."""
    folder, out = tmp_path / "music", tmp_path / "cache"
    shutil.copytree(music, folder)
    path = folder / "Album 1" / "01 first.wav"
    monkeypatch.setenv("TINY_AUTOENCODER", str(tiny_autoencoder))
    monkeypatch.setenv("GOING_AWAY", str(path))
    result = build(folder, out, "tiny_build:load_where_a_file_goes_away")
    assert [failure["id"] for failure in result.failures] == ["Album 1/01 first.wav"]
    assert "No such file" in result.failures[0]["error"]
    assert len(open_cache(out).tracks) == len(MUSIC) - 1
    Path(f"{path}.away").rename(path)
    result = build(folder, out, tiny_autoencoder)
    assert (result.built, result.failures) == (1, ())
    assert tree(out) == tree(built("zarr"))


# A full disk


def test_a_full_disk_is_named_and_the_build_resumes(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cache"
    monkeypatch.setenv("TINY_AUTOENCODER", str(tiny_autoencoder))
    with pytest.raises(CacheError, match=r"(?s)shards/.*: the disk is full.*make room and run the same command"):
        build(music, out, "tiny_build:load_on_a_full_disk")
    with pytest.raises(CacheError, match="not complete"):
        open_cache(out)
    whole = shard_files(built("zarr"))
    assert len(list((out / "shards").glob("*.json"))) == 2
    assert all(content == whole[name] for name, content in shard_files(out).items())  # no torn one at its final place
    result = build(music, out, tiny_autoencoder)
    assert (result.built, result.kept) == (NUM_SHARDS - 2, 2)
    assert tree(out) == tree(built("zarr"))


@pytest.mark.parametrize("name", ["settings.json", "failures.jsonl", "index.json"])
def test_no_room_for_the_last_lines_either(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    (out / "index.json").unlink()
    (out / "settings.json").unlink()
    original = build_module.write_text

    def write(path: Path, text: str) -> None:
        if path.name == name:
            path.with_name(f"{name}.1.partial").write_text("torn")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, text)

    monkeypatch.setattr(build_module, "write_text", write)
    with pytest.raises(CacheError, match="the disk is full"):
        build(music, out, tiny_autoencoder)
    monkeypatch.undo()
    assert build(music, out, tiny_autoencoder).built == 0
    assert tree(out) == tree(built("zarr"))


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="400k") as disk:
        with pytest.raises(CacheError, match="the disk is full"):
            build(music, disk / "cache", tiny_autoencoder, format="webdataset")
        whole = shard_files(built("webdataset"))
        final = {name: content for name, content in shard_files(disk / "cache").items() if ".partial" not in name}
        assert all(content == whole[name] for name, content in final.items())
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert build(music, disk / "cache", tiny_autoencoder, format="webdataset").kept > 0
        assert tree(disk / "cache") == tree(built("webdataset"))


# The command line


def test_the_command_line_from_plan_to_verify(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    config = tmp_path / "cache.yaml"
    config.write_text(json.dumps(tiny_config(tiny_autoencoder).model_dump()))  # JSON is YAML

    planned = command("plan", music, "--config", config, "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (plan["tracks"], plan["shards"], plan["unusable"]) == (len(MUSIC), NUM_SHARDS, [])

    done = command("build", music, "--out", out, "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)  # stdout holds nothing else; progress is on stderr
    assert (counts["shards_built"], counts["shards_kept"], counts["tracks"]) == (0, NUM_SHARDS, len(MUSIC))
    assert "encoding" in done.stderr

    shown = command("inspect", out, "--json", "--tracks")
    assert shown.returncode == 0, shown.stderr
    summary = json.loads(shown.stdout)
    assert summary["digest"] == open_cache(out).digest
    assert [track["id"] for track in summary["track_list"]] == [track.id for track in open_cache(out).tracks]

    sound = command("verify", out, "--json")
    assert (sound.returncode, json.loads(sound.stdout)) == (0, [])
    victim = next(path for path in sorted(out.rglob("0")) if path.is_file())
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.unlink()
    victim.write_bytes(content)
    damaged = command("verify", out, "--json", "--discard")
    assert damaged.returncode == 3
    (damage,) = json.loads(damaged.stdout)
    assert damage["file"] == victim.relative_to(out).as_posix()
    assert command("inspect", out).returncode == 2  # discarded: no index, no cache


AT_ONCE = [["--help"], ["build", "--help"], ["build", "x", "--out", "y", "--set", "z=1"]]


@pytest.mark.parametrize("arguments", AT_ONCE, ids=str)
def test_help_and_mistakes_answer_at_once(arguments: list[str]) -> None:
    """In processor time: on a busy machine the clock tells nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command(*arguments, PYTHONPROFILEIMPORTTIME="1")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == (2 if "--set" in arguments else 0)
    assert "import time:" in done.stderr
    assert " torch\n" not in done.stderr
    assert " zarr\n" not in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6
