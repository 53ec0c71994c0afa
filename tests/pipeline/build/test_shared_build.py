"""Several builders with one --out and nothing but it in common: one right cache, whoever comes, goes or dies."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from claims_of_others import BUILDER_ELSEWHERE, ELSEWHERE, take_as
from encode_here import noting_what_is_encoded, run_jobs_here, start_builder, wait_until  # noqa: F401, a fixture
from reencoder_pipeline.build import build as build_module
from reencoder_pipeline.build.build import build_cache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.shards import claims
from reencoder_pipeline.shards.claims import read_holder
from reencoder_pipeline.stores.store import open_store
from tiny_build import NUM_SHARDS, Built, build, copied, leftovers, tiny_config, tree


def test_two_builders_share_the_shards(
    music: Path,
    built: Built,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    out = tmp_path / "cache"
    other = start_builder(music, out, tiny_autoencoder, lease=60.0)
    wait_until(lambda: list(out.glob("*.builder")), other)
    mine = build(music, out, tiny_autoencoder)
    text, _ = other.communicate()
    assert other.returncode == 0
    built_there, by_me, kept_there = json.loads(text)
    assert mine.built + built_there == NUM_SHARDS  # none was made twice
    assert (mine.by_others, by_me + kept_there) == (built_there, mine.built)
    assert tree(out) == tree(built("zarr"))
    assert leftovers(out) == []


@pytest.mark.parametrize(("machine", "lease"), [("", 600.0), ("e15e3e4e", 1.0)])
def test_when_one_of_two_is_killed_the_other_makes_its_shard(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str],
    machine: str, lease: float,
) -> None:  # fmt: skip
    """On the same machine its end is seen at once; on another one, when its claim was not renewed for the lease."""
    out = tmp_path / "cache"
    victim = start_builder(music, out, tiny_autoencoder, lease=lease, machine=machine, hangs=True)
    wait_until(lambda: list(out.glob("shards/*.claim")), victim)
    (claim,) = out.glob("shards/*.claim")
    done: list[int] = []

    def progress(frames: int, total: int) -> None:
        done.append(frames)
        if len(list(out.glob("shards/*.json"))) == NUM_SHARDS - 1 and victim.poll() is None:
            renewed = claim.read_bytes()
            if machine:
                wait_until(lambda: claim.read_bytes() != renewed, victim)
            assert claim.exists()  # respected until now: all others are made
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()

    said: list[str] = []
    config = tiny_config(tiny_autoencoder, lease=lease)
    result = build_cache(music, out, config, progress=progress, workers=1, say=said.append)
    assert any(f"process {victim.pid}" in line and "shared with it" in line for line in said)
    assert (result.built, result.by_others, len(done)) == (NUM_SHARDS, 0, NUM_SHARDS + 1)
    assert tree(out) == tree(built("zarr"))
    assert leftovers(out) == []
    assert verify_cache(open_cache(out)) == []


def test_a_build_of_another_corpus_is_refused_while_it_lives(
    built: Built,
    music: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    living = take_as(ELSEWHERE, open_store(out), BUILDER_ELSEWHERE, lease=0.2, about="other shards")
    refused = pytest.raises(CacheError, match=r"(?s)another corpus.*process 7.*wait for it, or use another --out")
    with living, refused:
        build(music, out, tiny_autoencoder)
    assert tree(out) == tree(built("zarr"))
    take_as(ELSEWHERE, open_store(out), BUILDER_ELSEWHERE, lease=0.2, about="other shards")  # and never renewed
    assert build(music, out, tiny_autoencoder).built == 0
    assert tree(out) == tree(built("zarr"))


def test_a_builder_that_still_reads_its_corpus_is_no_hindrance(
    built: Built,
    music: Path,
    tiny_autoencoder: Path,
    tmp_path: Path,
    encodes_here: list[str],
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    with take_as(ELSEWHERE, open_store(out), BUILDER_ELSEWHERE):
        assert build(music, out, tiny_autoencoder).kept == NUM_SHARDS
        holder = read_holder((out / BUILDER_ELSEWHERE).read_bytes())
    assert holder is not None
    assert holder.about == ""


def test_a_build_that_fails_leaves_no_claim(
    music: Path, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "run_jobs", failing)
    with pytest.raises(KeyboardInterrupt):
        build(music, tmp_path, tiny_autoencoder)
    assert list(tree(tmp_path)) == ["settings.json"]
    assert claims.LEASE > 60  # attributes of files on NFS may lag by so many seconds
