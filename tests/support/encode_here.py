"""Builds without worker processes, and a builder to be started, hung and killed: `python encode_here.py ...`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.build import build as build_module
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.shards import make_shard as shard
from reencoder_pipeline.shards.job import Job
from reencoder_pipeline.shards.make_shard import build_shard
from reencoder_pipeline.shards.record import Record
from reencoder_pipeline.stores import writer_id as owners
from reencoder_pipeline.stores.store import Store
from tiny_build import build

PATIENCE = 300.0  # seconds; for machines that are busy with something else


def run_jobs_here(
    jobs: Sequence[Job], out: Path | str | Store, config: CacheConfig, *, workers: int
) -> Iterator[Record | None]:
    import torch

    torch.set_num_threads(1)  # as in a worker process
    autoencoder = load_autoencoder(config.autoencoder)
    for job in jobs:
        yield build_shard(job, autoencoder, out, config)


@pytest.fixture(name="encodes_here")
def noting_what_is_encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the tracks that were encoded, in order: copied ones are not among them."""
    ids, encode = list[str](), shard.encode_tracks

    def noted(autoencoder: Any, tracks: Sequence[Track], config: CacheConfig) -> Any:
        ids.extend(track.id for track in tracks)
        return encode(autoencoder, tracks, config)

    monkeypatch.setattr(build_module, "run_jobs", run_jobs_here)
    monkeypatch.setattr(shard, "encode_tracks", noted)
    return ids


def start_builder(
    source: Path, out: Path | str, autoencoder: Path, *, lease: float, machine: str = "", hangs: bool = False
) -> subprocess.Popen[str]:
    """`machine`: it takes itself to be on another one. `hangs`: within its first shard, with the claim renewed."""
    line = [sys.executable, __file__, source, out, autoencoder, lease, machine, "hangs" if hangs else ""]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([str(part) for part in line], env=environment, stdout=subprocess.PIPE, text=True)


def wait_until(reached: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process is None or process.poll() is None, "the builder ended"
        assert time.monotonic() < deadline, "waiting in vain"
        time.sleep(0.02)


def main(source: str, out: str, autoencoder: str, lease: str, machine: str, hangs: str) -> None:
    """With a companion: the first shard is begun when two builders are there."""
    if machine:
        owners._machine = lambda: machine
    if hangs:
        shard.encode_tracks = lambda autoencoder, tracks, config: time.sleep(PATIENCE)  # type: ignore[assignment]

    def run_jobs(jobs: Sequence[Job], out: Path, config: CacheConfig, *, workers: int) -> Iterator[Record | None]:
        if not hangs:
            wait_until(lambda: len(list(out.glob("*.builder"))) > 1 or (out / "index.json").exists())
        return run_jobs_here(jobs, out, config, workers=workers)

    build_module.run_jobs = run_jobs  # type: ignore[assignment]
    result = build(Path(source), Path(out), autoencoder, lease=float(lease))
    print(json.dumps([result.built, result.by_others, result.kept]))


if __name__ == "__main__":
    main(*sys.argv[1:])
