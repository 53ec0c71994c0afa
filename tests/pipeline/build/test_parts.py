"""Parts of a build, and locks: job arrays make one right cache, and a second build of the same place is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch

from command_line import reencoder_cache
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.build.build import build_cache
from reencoder_pipeline.build.build_lock import build_lock
from reencoder_pipeline.build.local_workers import run_jobs
from reencoder_pipeline.build.parts import Part, jobs_of, parse_part
from reencoder_pipeline.build.plan import plan_build
from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.shards import make_shard
from reencoder_pipeline.shards.job import Job
from reencoder_pipeline.shards.make_shard import build_shard
from reencoder_pipeline.stores.store import open_store
from reencoder_pipeline.stores.writer_id import owner
from tiny_build import (
    NUM_SHARDS,
    Built,
    build,
    copied,
    leftovers,
    scratch_name,
    shard_files,
    tiny_config,
    tree,
)


@pytest.fixture(params=["folder", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A place for a cache."""
    return tmp_path / "cache" if request.param == "folder" else request.getfixturevalue("s3_bucket") + "/cache"


def files(out: Path | str, to: Path) -> dict[str, bytes]:
    if isinstance(out, str):
        store = open_store(out)
        for name in store.sizes():
            store.download(name, to / name)
        return tree(to)
    return tree(out)


# Parts


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_shard_is_in_one_part_and_parts_are_balanced(count: int) -> None:
    jobs = [Job(f"{number:020x}", (), 500 + 37 * (number * number % 11), ()) for number in range(40)]
    parts = [jobs_of(jobs, Part(number, count)) for number in range(1, count + 1)]
    assert sorted(job.key for part in parts for job in part) == [job.key for job in jobs]
    frames = [sum(job.num_frames for job in part) for part in parts]
    assert max(frames) - min(frames) <= max(job.num_frames for job in jobs)
    assert parts == [jobs_of(jobs[::-1], Part(number, count)) for number in range(1, count + 1)]


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "3", "1/0", "1/3/5", "-1/3", "1.0/3", "²/3", ""])
def test_what_is_no_part_is_a_usage_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--part: a part reads NUMBER/COUNT.*\n.*\n.*--part 3/16"):
        parse_part(text)


def test_parts_and_then_the_whole_make_the_cache_of_one_build(
    out: Path | str, music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    done = [build(music, out, tiny_autoencoder, part=part) for part in ("3/3", "1/3")]
    assert all(result.built > 0 and result.kept == 0 for result in done)
    assert {"index.json", "failures.jsonl"}.isdisjoint(open_store(out).sizes())
    again = build(music, out, tiny_autoencoder, part="1/3")
    assert (again.built, again.kept, again.num_tracks) == (0, done[1].built, done[1].num_tracks)
    result = build(music, out, tiny_autoencoder)
    assert result.kept == sum(one.built for one in done)
    assert result.built == NUM_SHARDS - result.kept > 0
    assert files(out, tmp_path / "copy") == tree(built("zarr"))


def test_parts_beyond_the_shards_have_nothing_to_do(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    built = [build(music, tmp_path, tiny_autoencoder, part=f"{number}/9").built for number in range(1, 10)]
    assert sorted(built) == [0] * (9 - NUM_SHARDS) + [1] * NUM_SHARDS


def test_a_part_that_runs_while_the_whole_does_breaks_nothing(
    out: Path | str, music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    """The whole has planned all shards by then, and keeps those that the parts make meanwhile."""
    parts = iter(["1/2", "2/2"])
    found = []

    def run(*arguments: Any) -> Any:
        for record in run_jobs(*arguments, workers=1):
            yield record
            if (part := next(parts, None)) is not None:
                found.append(build(music, out, tiny_autoencoder, part=part))

    result = build(music, out, tiny_autoencoder, run=run)
    assert result.built + sum(one.built for one in found) == NUM_SHARDS
    assert 1 <= result.built <= 2
    assert files(out, tmp_path / "copy") == tree(built("zarr"))


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
def test_two_that_place_one_shard_at_the_same_moment_agree(
    storage: str, music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have encoded it before either has placed it, and what a kill left lies there already."""
    out, config = tmp_path / "cache", tiny_config(tiny_autoencoder, format=storage)
    whole, settings = shard_files(built(storage)), EncodeSettings.of(config)
    autoencoder, encode, both = load_autoencoder(str(tiny_autoencoder)), make_shard.encode_tracks, Barrier(2)

    def encode_tracks(*arguments: Any) -> Any:
        yield from encode(*arguments)
        both.wait(timeout=60)

    monkeypatch.setattr(make_shard, "encode_tracks", encode_tracks)
    # Workers encode with one thread each, and sums of several threads are rounded differently.
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for job in plan_build(music, config).jobs:
            left = out / "shards" / (f"{job.key}/zarr.json" if storage == "zarr" else f"{job.key}.tar")
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_text("torn")
            form = ShardFormat.of(config, channels=autoencoder.spec.channels)
            made = [pool.submit(build_shard, job, autoencoder, out, settings=settings, form=form) for _ in range(2)]
            assert made[0].result().shard == made[1].result().shard
    torch.set_num_threads(threads)
    assert shard_files(out) == whole


def test_a_part_with_other_settings_is_refused(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    build(music, tmp_path, tiny_autoencoder, part="1/9")
    before = tree(tmp_path)
    with pytest.raises(CacheError, match="was begun with other settings"):
        build(music, tmp_path, tiny_autoencoder, part="2/9", segment_seconds=2.0)
    assert tree(tmp_path) == before


def test_a_corpus_that_changed_can_be_made_in_parts_while_the_old_cache_is_read(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    listed = tmp_path / "tracks.txt"
    listed.write_text("\n".join(str(path) for path in sorted(music.rglob("*.wav"))))
    for part in ("1/2", "2/2"):
        build(listed, out, tiny_autoencoder, part=part)
        assert verify_cache(open_cache(out)) == []
    assert build(listed, out, tiny_autoencoder).built == 0
    build(listed, tmp_path / "fresh", tiny_autoencoder)
    assert tree(out) == tree(tmp_path / "fresh")


def test_the_command_line_of_a_job_array(music: Path, tiny_autoencoder: Path, built: Built, tmp_path: Path) -> None:
    settings = tmp_path / "cache.yaml"
    settings.write_text(json.dumps(tiny_config(tiny_autoencoder, workers=1).model_dump()))
    line = ("build", music, "--out", tmp_path / "cache", "--config", settings, "--json")
    summary = json.loads(reencoder_cache(*line, "--part", "2/2").stdout)
    assert (summary["part"], summary["shards_built"] > 0) == ("2/2", True)
    done = reencoder_cache(*line)
    assert (done.returncode, json.loads(done.stdout)["shards_kept"]) == (0, summary["shards_built"])
    assert tree(tmp_path / "cache") == tree(built("zarr"))
    refused = reencoder_cache(*line, "--part", "4/3")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 3)


# Locks


def test_a_second_build_is_refused_and_says_which_process_runs(
    out: Path | str, music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    with (
        build_lock(open_store(out), None),
        pytest.raises(ConfigError, match=rf"(?s)a build is running .*process {os.getpid()} on .*another --out"),
    ):
        build(music, out, tiny_autoencoder)
    with (
        build_lock(open_store(out), Part(1, 2)),
        pytest.raises(ConfigError, match=rf"(?s)part 1/2 of a build is running .*process {os.getpid()} on "),
    ):
        build(music, out, tiny_autoencoder, part="1/2")
    assert list(open_store(out).sizes()) == []


def test_the_lock_of_an_ended_process_is_taken_over(s3_bucket: str) -> None:
    store = open_store(f"{s3_bucket}/cache")
    child = subprocess.run([sys.executable, "-c", "from reencoder_pipeline.stores.writer_id import owner; "
                            "print(owner())"], capture_output=True, text=True, check=True)  # fmt: skip
    for writer in (child.stdout.strip(), owner()):  # its own: it could not remove that of an earlier build
        store.write("build.lock", json.dumps({"writer": writer, "token": "0"}).encode())
        with build_lock(store, None):
            assert json.loads(store.read("build.lock") or b"")["process"] == os.getpid()
    assert list(store.sizes()) == []


FOREIGN_LOCKS = [
    (b'{"writer": "e15e3e4e-7-7", "process": 7, "host": "a", "since": "noon"}', "process 7 on a, since noon"),
    (b'{"process": "\\u001b", "host": "%s", "since": 0}' % (b"a" * 9_000), r"process \\x1b on a{,200} \.\.\. \(short"),
    *((content, "a process that does not say its name") for content in (b"{", b"[]", b"", b'{"process": 7}')),
]


@pytest.mark.parametrize(("content", "found"), FOREIGN_LOCKS)
def test_a_lock_of_another_machine_is_left_to_a_person(s3_bucket: str, content: bytes, found: str) -> None:
    store = open_store(f"{s3_bucket}/cache")
    store.write("build.lock", content)
    with (
        pytest.raises(ConfigError, match=rf"(?s)a build is running here.*{found}.*delete s3://.*/build\.lock"),
        build_lock(store, None),
    ):
        raise AssertionError("it is held by another process")
    assert store.read("build.lock") == content


def test_what_killed_parts_left_is_swept_away(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    for name in ("part-3-of-16.lock", scratch_name(), ".lock"):
        (out / name).write_text("{}")
    assert build(music, out, tiny_autoencoder).kept == NUM_SHARDS
    assert tree(out) == tree(built("zarr"))


def test_ctrl_c_leaves_what_is_finished_and_no_lock(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(music, tmp_path, tiny_config(tiny_autoencoder), progress=progress)
    assert len(list(tmp_path.glob("shards/*.json"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings.json", "shards"]
    assert leftovers(tmp_path) == []
    assert build(music, tmp_path, tiny_autoencoder).kept == 1
