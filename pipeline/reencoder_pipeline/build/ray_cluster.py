"""Connects to a Ray cluster and checks that its nodes see the same files."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.stores.atomic import beside
from reencoder_pipeline.stores.store import Store

CONNECT_SECONDS = 10.0
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no statistics to its makers
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # no copy of this folder to every node under `uv run`
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # or the news of dead workers goes to standard output, come what may
    "RAY_task_oom_retries": "2",  # as often as other deaths, not for ever
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # attempts of 40 s, not 20, at what answers but is not Ray
}


def require_ray() -> None:
    for name, value in SETTINGS.items():  # read when ray is imported
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ConfigError("Ray is not installed", where="--ray", remedy="pip install 'reencoder[ray]'") from None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """CacheError within a minute where no cluster answers."""
    import ray

    remedy = "give the host:port that `ray start --head` shows, on a machine of the cluster; or `auto`; or `local`"
    if address not in ("local", "auto"):
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal() and "/" not in host):
            raise ConfigError("this is no address of a Ray cluster", where="--ray", value=address, remedy=remedy)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise CacheError("no Ray cluster answers", where=address, value=error, remedy=remedy) from None
    try:
        # What workers print would come out on standard output.
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise CacheError("no Ray cluster answers", where=address, value=error, remedy=remedy) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def marked(store: Store) -> Iterator[str]:
    """The name of a file in `out` that no other place holds: by it a node sees that its `out` is the same place."""
    mark = beside(Path("mark")).name
    store.write(mark, b"")
    try:
        yield mark
    finally:
        with suppress(OSError, CacheError):  # the next build sweeps it away
            store.remove(mark)


def require_sight(music: Path, store: Store, mark: str) -> None:
    """CacheError if this node does not have the music, or an `out` of the same name that is another."""
    node, remedy = socket.gethostname(), "put it where every node has it under the same path"
    if not music.is_file():
        raise CacheError(f"the music is not on node {node}", where=music, remedy=remedy)
    if store.read(mark) is None:
        raise CacheError(
            f"--out is not on node {node}, or is another place of that name there",
            where=store.url,
            remedy=f"{remedy}, or give an s3:// URL",
        )


@contextmanager
def naming_a_full_gpu(where: str, config: CacheConfig) -> Iterator[None]:
    """CacheError instead of torch's: nothing smaller is tried in silence, because latents depend on it (rounding)."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        batch = config.batch_segments
        smaller = f"batch_segments={batch // 2}" if batch > 1 else f"segment_seconds={config.segment_seconds / 2:g}"
        raise CacheError(
            "the GPU has too little memory",
            where=where,
            value=f"batch_segments={batch}, segment_seconds={config.segment_seconds:g}; {str(error).splitlines()[0]}",
            remedy=f"--set {smaller}, into another --out: latents depend on it",
        ) from None
