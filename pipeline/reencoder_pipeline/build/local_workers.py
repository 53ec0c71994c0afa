"""Build shards in local worker processes, one thread each, and hand back their records as they are committed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING

from reencoder_pipeline.cache.layout import SHARDS
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shards.job import Job
from reencoder_pipeline.shards.make_shard import build_shard
from reencoder_pipeline.shards.record import Record
from reencoder_pipeline.shards.sweep import naming_a_full_disk
from reencoder_pipeline.stores.store import Store, open_store

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


def run_jobs(
    jobs: Sequence[Job], out: Path | str | Store, config: CacheConfig, *, workers: int
) -> Iterator[Record | None]:
    """None for a shard that another builder is making. CacheError when the disk is full, the store does not answer, or
    a worker is killed; what was committed until then is kept."""
    if not jobs:
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(config.autoencoder, os.getpid()),
    )
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
        for child in set(active_children()) - others:  # after an error or Ctrl-C nobody waits for the shards in flight
            child.terminate()


_autoencoder: Autoencoder


def _start(autoencoder: str, parent: int) -> None:
    global _autoencoder  # noqa: PLW0603, a worker process is its autoencoder
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    from reencoder_pipeline.autoencoder import load_autoencoder

    # One thread each: sums are then made in the same order on any machine, and two workers do not fight for a core.
    torch.set_num_threads(1)
    _autoencoder = load_autoencoder(autoencoder)


def _end_with(parent: int) -> None:
    """A worker whose build was killed must not go on alone: nothing else would ever tell it to stop."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run(job: Job, out: Path | str | Store, config: CacheConfig) -> Record | None:
    with naming_a_full_disk(f"{open_store(out).url}/{SHARDS}/{job.key}"):
        return build_shard(job, _autoencoder, out, config)
