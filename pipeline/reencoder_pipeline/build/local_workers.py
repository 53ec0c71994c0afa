"""Makes shards in this process, or in several worker processes, one thread each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING

from reencoder_pipeline.cache.layout import SHARDS, ShardFormat
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.process_pool import spawned_pool
from reencoder_pipeline.shards.job import Job
from reencoder_pipeline.shards.make_shard import build_shard
from reencoder_pipeline.shards.record import Record
from reencoder_pipeline.shards.sweep import naming_a_full_disk
from reencoder_pipeline.stores.store import Store, open_store

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


def run_jobs(jobs: Sequence[Job], out: Path | str | Store, config: CacheConfig, *, workers: int) -> Iterator[Record]:
    """The records of all jobs, as they are committed. One worker is this process: none is started.

    CacheError when the disk is full, the store does not answer, or a worker is killed. What was committed until then
    is kept.
    """
    if not jobs:
        return
    if min(workers, len(jobs)) == 1:
        yield from _run_here(jobs, out, config)
        return
    others = set(active_children())
    pool = spawned_pool(min(workers, len(jobs)), _start, config.autoencoder)
    try:
        for future in as_completed([pool.submit(_run, job, out, config) for job in jobs]):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise CacheError(
            "a worker process was killed, perhaps for want of memory",
            where=open_store(out).url,
            remedy="run the same command again, with fewer `workers` if memory was short; finished shards are kept",
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - others:  # after an error or Ctrl-C the shards in flight are given up
            child.terminate()


def _run_here(jobs: Sequence[Job], out: Path | str | Store, config: CacheConfig) -> Iterator[Record]:
    import torch

    from reencoder_pipeline.autoencoder import load_autoencoder

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker process
    try:
        autoencoder = load_autoencoder(config.autoencoder)
        for job in jobs:
            yield _build(job, autoencoder, out, config)
    finally:
        torch.set_num_threads(threads)


_autoencoder: Autoencoder


def _start(autoencoder: str) -> None:
    global _autoencoder  # noqa: PLW0603, a worker process is its autoencoder
    import torch

    from reencoder_pipeline.autoencoder import load_autoencoder

    # One thread each: sums are then made in the same order on any machine, and two workers do not fight for a core.
    torch.set_num_threads(1)
    _autoencoder = load_autoencoder(autoencoder)


def _run(job: Job, out: Path | str | Store, config: CacheConfig) -> Record:
    return _build(job, _autoencoder, out, config)


def _build(job: Job, autoencoder: Autoencoder, out: Path | str | Store, config: CacheConfig) -> Record:
    with naming_a_full_disk(f"{open_store(out).url}/{SHARDS}/{job.key}"):
        form = ShardFormat.of(config, channels=autoencoder.spec.channels)
        return build_shard(job, autoencoder, out, settings=EncodeSettings.of(config), form=form)
