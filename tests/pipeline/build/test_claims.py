"""Claims: one holder, who shows that he lives; whoever is gone is replaced, and a mistake in that loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claims_of_others import ELSEWHERE, take_as
from encode_here import noting_what_is_encoded, wait_until  # noqa: F401, a fixture
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.build.plan import plan_build
from reencoder_pipeline.cache.layout import claim_name
from reencoder_pipeline.shards import claims
from reencoder_pipeline.shards import make_shard as shard
from reencoder_pipeline.shards.claims import Watch, read_holder, take
from reencoder_pipeline.shards.job import Job
from reencoder_pipeline.shards.make_shard import build_shard
from reencoder_pipeline.shards.record import read_record
from reencoder_pipeline.shards.sweep import sweep
from reencoder_pipeline.stores import writer_id as owners
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.store import Store, open_store
from reencoder_pipeline.stores.writer_id import has_ended, owner
from tiny_build import leftovers, scratch_name, tiny_config, tree


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path if request.param == "folder" else request.getfixturevalue("s3_bucket") + "/cache")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of whoever waits, which stands still but for the test."""
    now = [1000.0]
    monkeypatch.setattr(claims, "monotonic", lambda: now[0])
    return now


def test_one_holds_a_claim_until_it_is_released(store: Store) -> None:
    first = take(store, "shards/a.claim", lease=60.0, about="music")
    assert first is not None
    assert take(store, "shards/a.claim", lease=60.0) is None
    holder = read_holder(store.read("shards/a.claim") or b"")
    assert holder is not None
    assert (holder.owner, holder.lease, holder.about) == (owner(), 60.0, "music")
    assert holder.name.endswith(f"process {os.getpid()}")
    with first:
        first.tell("other music")
        assert first.is_held()
    assert store.read("shards/a.claim") is None
    assert take(store, "shards/a.claim", lease=60.0) is not None


def test_a_holder_shows_that_he_lives(tmp_path: Path) -> None:
    store, contents = open_store(tmp_path), set()
    claim = take(store, "a.claim", lease=0.04)
    assert claim is not None
    with claim:
        wait_until(lambda: contents.add(store.read("a.claim")) or len(contents) > 3)


def test_a_claim_that_does_not_change_for_its_lease_is_free(store: Store, clock: list[float]) -> None:
    take_as(ELSEWHERE, store, "a.claim")
    watch = Watch(store)
    assert not watch.is_free("a.claim")
    clock[0] += 59.0
    assert not watch.is_free("a.claim")
    clock[0] += 1.0
    assert not watch.has_ended(ELSEWHERE)
    assert watch.is_free("a.claim")
    assert watch.has_ended(ELSEWHERE)
    assert store.read("a.claim") is None


def test_only_changes_count_and_clocks_of_other_machines_do_not(
    store: Store, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, watch = take_as(ELSEWHERE, store, "a.claim"), Watch(store)
    for wrong in (0.0, 1e12, -5.0, 3e9):
        monkeypatch.setattr(claims, "time", lambda wrong=wrong: wrong)
        claim.tell("still there")
        assert not watch.is_free("a.claim")
        clock[0] += 59.0
        assert not watch.is_free("a.claim")
    assert not Watch(store).is_free("a.claim")  # whoever comes now has to wait himself
    clock[0] += 1.0
    assert watch.is_free("a.claim")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"host": 1}',
        b'{"host":"a","owner":"b","lease":1,"about":""}',
        b'{"host":"a","owner":"b-1-1","lease":NaN,"about":""}',
    ],
)
def test_a_damaged_claim_runs_out_too(tmp_path: Path, clock: list[float], content: bytes) -> None:
    store, watch = open_store(tmp_path), Watch(open_store(tmp_path))
    store.write("a.claim", content)
    assert not watch.is_free("a.claim")
    clock[0] += claims.LEASE
    assert watch.is_free("a.claim")


def test_a_claim_cannot_ask_for_ever(tmp_path: Path, clock: list[float]) -> None:
    store, watch = open_store(tmp_path), Watch(open_store(tmp_path))
    take_as(ELSEWHERE, store, "a.claim", lease=1e30)
    assert not watch.is_free("a.claim")
    clock[0] += claims.LONGEST_LEASE
    assert watch.is_free("a.claim")


def test_on_its_own_machine_an_ended_process_is_noticed_at_once(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    its = f"{owners._machine()}-{child.pid}-{owners._started(child.pid)}"
    try:
        assert not has_ended(its)
        take_as(its, store, "a.claim")
        assert not Watch(store).is_free("a.claim")
    finally:
        child.kill()
        child.wait()
    assert has_ended(its)
    assert Watch(store).is_free("a.claim")


def test_what_is_known_of_processes() -> None:
    machine, pid, started = owner().split("-")
    assert not has_ended(owner())
    assert has_ended(f"{machine}-{pid}-{int(started) - 1}")  # the number belonged to another process before
    assert not has_ended(f"e15e3e4e-{pid}-{int(started) - 1}")
    assert not has_ended("")


def test_a_holder_who_was_replaced_leaves_the_claim_to_the_other(store: Store) -> None:
    first = take(store, "a.claim", lease=60.0)
    assert first is not None
    with first:
        store.remove("a.claim")
        second = take(store, "a.claim", lease=60.0)
        assert second is not None
        assert not first.is_held()
    assert second.is_held()


def test_a_sweep_leaves_alone_what_living_builders_write(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    mine, theirs, dead = (f"shards/{scratch_name(its_owner)}" for its_owner in (owner(), ELSEWHERE, None))
    placed, left_over = "d" * 20, "e" * 20
    for name in (
        f"{mine}/x",
        f"{theirs}/x",
        f"{dead}/x",
        f"shards/{placed}/zarr.json",
        f"shards/{left_over}/zarr.json",
    ):
        store.write(name, b"-")
    take_as(ELSEWHERE, store, claim_name(placed))  # in place, and not yet recorded
    sweep(store)
    left = [name for name in store.names() if not name.endswith(".claim")]
    assert left == sorted([f"{mine}/x", f"{theirs}/x", f"shards/{placed}/zarr.json"])
    old = time.time() - 7200
    os.utime(tmp_path / theirs, (old, old))
    sweep(store)
    assert f"{theirs}/x" not in list(store.names())


# A shard that two make


@pytest.fixture
def job(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> Job:
    manifest = tmp_path / "tracks.txt"
    manifest.write_text(str(music / "short.wav"))
    return plan_build(manifest, tiny_config(tiny_autoencoder)).jobs[0]


def replaced_while_encoding(
    monkeypatch: pytest.MonkeyPatch, store: Store, job: Job, then: Callable[[], None]
) -> Callable[[], int]:
    """The first time that a shard is encoded, its claim is taken over meanwhile."""
    encode, calls = shard.encode_tracks, [0]

    def encode_tracks(*arguments: Any) -> Any:
        calls[0] += 1
        yield from encode(*arguments)
        if calls[0] == 1:
            store.remove(claim_name(job.key))
            then()

    monkeypatch.setattr(shard, "encode_tracks", encode_tracks)
    return lambda: calls[0]


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_wrong_takeover_costs_time_and_nothing_else(
    place: str, job: Job, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    url = tmp_path / "cache" if place == "folder" else request.getfixturevalue("s3_bucket") + "/cache"
    store, config = open_store(url), tiny_config(tiny_autoencoder)
    autoencoder, second = load_autoencoder(str(tiny_autoencoder)), []
    calls = replaced_while_encoding(
        monkeypatch, store, job, lambda: second.append(build_shard(job, autoencoder, store, config))
    )
    assert build_shard(job, autoencoder, store, config) is None  # whoever took over has made it
    assert calls() == 2
    record = read_record(store, job.key)
    assert record is not None
    assert second[0].shard == record.shard
    assert claim_name(job.key) not in list(store.names())
    if place == "folder":
        assert leftovers(tmp_path / "cache") == []
        build_shard(job, autoencoder, tmp_path / "alone", config)
        assert tree(tmp_path / "cache") == tree(tmp_path / "alone")


def test_whoever_was_replaced_commits_nothing(
    job: Job, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "cache")
    replaced_while_encoding(monkeypatch, store, job, lambda: None)
    assert build_shard(job, load_autoencoder(str(tiny_autoencoder)), store, tiny_config(tiny_autoencoder)) is None
    assert list(store.names()) == []


def test_a_shard_that_another_holds_or_has_made_is_not_made(
    job: Job,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    store, config, autoencoder = (
        open_store(tmp_path),
        tiny_config(tiny_autoencoder),
        load_autoencoder(str(tiny_autoencoder)),
    )
    with take_as(ELSEWHERE, store, claim_name(job.key)):
        assert build_shard(job, autoencoder, tmp_path, config) is None
    first = build_shard(job, autoencoder, tmp_path, config)
    assert first is not None
    assert (first.reused, len(encodes_here)) == (0, 1)
    again = build_shard(job, autoencoder, tmp_path, config)
    assert again is not None
    assert (again.shard, again.reused, len(encodes_here)) == (first.shard, None, 1)
