"""Makes shards on a Ray cluster: one task a shard, with a GPU or a CPU of its own."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reencoder_pipeline.build.ray_cluster import connected, marked, naming_a_full_gpu, require_ray, require_sight
from reencoder_pipeline.cache.layout import SHARDS, ShardFormat
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.errors import AutoencoderError, CacheError, ReencoderError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.job import Job
from reencoder_pipeline.shards.make_shard import build_shard
from reencoder_pipeline.shards.record import Record
from reencoder_pipeline.shards.sweep import naming_a_full_disk
from reencoder_pipeline.stores.store import Store, open_store

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


MOST_DEATHS = 3  # of workers over one shard, before the shard is called the reason
MOST_TASKS = 1_000  # in Ray's queue: each result is waited for among all of them
DISMISS_SECONDS = 5.0
PLACE_SECONDS = 60.0  # without a place for one task, before a warning


def run_on_ray(jobs: Sequence[Job], out: Path | str | Store, config: CacheConfig, *, address: str) -> Iterator[Record]:
    """`local_workers.run_jobs` on a cluster. `address`: "local", "auto" or host:port.

    There is one task a GPU at a time, or a CPU where the cluster has no GPU at the start, and at most `workers` of the
    configuration. When a worker process or its node dies, Ray makes its shard elsewhere: a shard may be made twice, and
    is the same then. CacheError: no Ray there, a node that does not see the music or `out`, a shard over which worker
    after worker dies; the others are made before. What was committed until then is kept.
    """
    if not jobs:
        return
    from reencoder_pipeline.autoencoder import load_autoencoder

    require_ray()
    spec = load_autoencoder(config.autoencoder).spec
    store = open_store(out.absolute() if isinstance(out, Path) else out)
    with connected(address), marked(store) as mark:
        import ray

        device = "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"
        task = ShardTask(store, config, spec, Path.cwd(), jobs[0].tracks[0].path, mark, device)
        # max_calls=0: a worker of a GPU would else end after each shard, and the next one load the autoencoder again.
        remote = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"), max_calls=0, max_retries=MOST_DEATHS - 1)
        if not ray.wait([remote(lambda: None).remote()], timeout=PLACE_SECONDS)[0]:
            free = ray.available_resources()
            warnings.warn(f"no worker began in {PLACE_SECONDS:.0f} s; free in the cluster: {free}", stacklevel=2)
        yield from _results(jobs, remote(make_shard), ray.put(task), config)


def _results(jobs: Sequence[Job], make: Any, task: Any, config: CacheConfig) -> Iterator[Record]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    waiting, lost, running = iter(jobs), list[CacheError](), dict[ray.ObjectRef[Any], Job]()

    def submit() -> None:
        for job in waiting:
            running[make.remote(job, task)] = job
            if len(running) >= (config.workers or MOST_TASKS):
                break

    try:
        submit()
        while running:
            (ref,), _ = ray.wait(list(running))
            job = running.pop(ref)
            try:
                outcome = ray.get(ref)
            except RayTaskError:  # a bug, with the traceback of the task
                raise
            except RayError as error:  # the workers, their nodes or the answer are gone
                lost.append(_deadly(job, config, error))
            else:
                if isinstance(outcome, ReencoderError):
                    raise outcome
                yield outcome
            submit()
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=DISMISS_SECONDS)
    if lost:
        raise lost[0]


@dataclass(frozen=True)
class ShardTask:
    """What each task is given beside its shard. `music` is a file of the corpus and `mark` one in the store: an error
    names a node that lacks one of them. Relative paths are those of `folder`."""

    store: Store
    config: CacheConfig
    spec: LatentSpec
    folder: Path
    music: Path
    mark: str
    device: str


def make_shard(job: Job, task: ShardTask) -> Record | ReencoderError:
    """Make a shard on the node where this runs. Expected errors are returned, because Ray wraps raised ones."""
    where, config = f"{SHARDS}/{job.key} on {socket.gethostname()}", task.config
    form, settings = ShardFormat.of(config, channels=task.spec.channels), EncodeSettings.of(config)
    try:
        autoencoder = _ready(task)
        with naming_a_full_gpu(where, config), naming_a_full_disk(where):
            return build_shard(job, autoencoder, task.store, settings=settings, form=form)
    except ReencoderError as error:
        return error


def _ready(task: ShardTask) -> Autoencoder:
    """The task's autoencoder. An error if this node does not have the music, the mark, or the weights of `spec`."""
    import torch

    with suppress(OSError):  # a missing folder is reported below, by what is missing in it
        os.chdir(task.folder)
    require_sight(task.music, task.store, task.mark)
    if task.device == "cuda" and not torch.cuda.is_available():
        raise AutoencoderError(
            "this node has a GPU, and a torch that sees none", where=socket.gethostname(),
            remedy="install a torch for its GPU, as for a training",
        )  # fmt: skip
    autoencoder = _loaded(task.config.autoencoder, task.device, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if autoencoder.spec != task.spec:
        raise AutoencoderError(
            f"{task.config.autoencoder} is another autoencoder on this node",
            where=socket.gethostname(),
            value=f"{autoencoder.spec}, and {task.spec} where the build was started",
            remedy="install the same version of reencoder, and the same weights, on every node",
        )
    return autoencoder


@lru_cache(maxsize=1)
def _loaded(name: str, device: str, gpus: str | None) -> Autoencoder:
    """Kept from shard to shard, for as long as Ray gives this process the same `gpus`."""
    import torch

    from reencoder_pipeline.autoencoder import load_autoencoder
    from reencoder_pipeline.named_function import ANNOUNCED

    if device == "cuda" and torch.cuda.is_initialized():  # for another GPU; Ray makes the shard in another process
        os._exit(1)
    torch.set_num_threads(1)  # as in local workers
    ANNOUNCED.add(name)  # the process of the build has said it already
    return load_autoencoder(name, device=device)


def _deadly(job: Job, config: CacheConfig, error: Exception) -> CacheError:
    names = [track.id for track in job.tracks]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return CacheError(
        f"{MOST_DEATHS} Ray workers died while they made this shard, perhaps for want of memory",
        where=f"{SHARDS}/{job.key}",
        value=f"its tracks: {', '.join(names[:3])}{more}; {' '.join(str(error).split())}",
        remedy=f"run again with more memory a worker (fewer `workers`) or smaller shards (--set shard_frames="
        f"{max(1024, config.shard_frames // 2)}), or leave these tracks out",
    )
