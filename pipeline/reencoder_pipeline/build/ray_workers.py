"""Makes shards on a Ray cluster, one actor a GPU or a CPU."""

from __future__ import annotations

import os
import socket
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
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
from reencoder_pipeline.stores.writer_id import owner

if TYPE_CHECKING:
    from ray import ObjectRef


IN_HAND = 2  # shards an actor has at a time: the one it makes, and the next, so that it never waits for the driver
MOST_DEATHS = 3  # of actors over one shard, before the shard is called the reason
BEGINNING = ""  # counted like a shard
DISMISS_SECONDS = 5.0
LOOK_SECONDS = 5.0  # at the latest, to see whether nodes have joined
PLACE_SECONDS = 60.0  # without one actor at work, before a warning


def run_on_ray(jobs: Sequence[Job], out: Path | str | Store, config: CacheConfig, *, address: str) -> Iterator[Record]:
    """`local_workers.run_jobs` on a cluster. `address`: "local", "auto" or host:port.

    There is one actor a GPU, or a CPU where the cluster has no GPU at the start, and at most `workers` of the
    configuration. When an actor or its node dies, other actors make its shards: a shard may be made twice, and is the
    same then. CacheError: no Ray there, a node that does not see the music or `out`, a shard over which actor after
    actor dies. What was committed until then is kept.
    """
    if not jobs:
        return
    from reencoder_pipeline.autoencoder import load_autoencoder

    require_ray()
    spec = load_autoencoder(config.autoencoder).spec
    store = open_store(out.absolute() if isinstance(out, Path) else out)
    with connected(address), marked(store) as mark:
        import ray

        unit = "GPU" if ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"
        device = "cuda" if unit == "GPU" else "cpu"
        encoder = ray.remote(num_cpus=1, num_gpus=int(unit == "GPU"), max_restarts=0, max_task_retries=0)(Encoder)

        def hire() -> _Member:
            actor = encoder.remote(store, config)
            begun = actor.begin.remote(spec, Path.cwd(), jobs[0].tracks[0].path, mark, device=device)
            return _Member(actor, deque([(begun, None)]))

        def num_places() -> int:
            # One more than there are waits in Ray's queue: the first on a node that joins, and what an autoscaler sees.
            return min(int(ray.cluster_resources().get(unit, 0)) + 1, config.workers or len(jobs))

        yield from _distribute(jobs, store, config, hire=hire, num_places=num_places)


class Encoder:
    """An actor with an autoencoder, which makes shards. It returns expected errors, because Ray wraps raised ones."""

    def __init__(self, out: Store, config: CacheConfig) -> None:
        self._out, self._config = out, config

    def begin(self, spec: LatentSpec, folder: Path, music: Path, mark: str, *, device: str) -> str | ReencoderError:
        """Load the autoencoder; the name of this process, as in `writer_id.owner`. An error if this node does not have
        `music`, the file `mark` in `out`, or the weights of `spec`. Relative paths are those of `folder`.

        The constructor does not load: Ray hides its errors in the report of the actor's death.
        """
        import torch

        from reencoder_pipeline.autoencoder import load_autoencoder
        from reencoder_pipeline.named_function import ANNOUNCED

        torch.set_num_threads(1)  # as in local workers
        with suppress(OSError):  # a missing folder is reported below, by what is missing in it
            os.chdir(folder)
        try:
            require_sight(music, self._out, mark)
            if device == "cuda" and not torch.cuda.is_available():
                raise AutoencoderError(
                    "this node has a GPU, and a torch that sees none", where=socket.gethostname(),
                    remedy="install a torch for its GPU, as for a training",
                )  # fmt: skip
            ANNOUNCED.add(self._config.autoencoder)  # the process of the build has said it already
            self._autoencoder = load_autoencoder(self._config.autoencoder, device=device)
            if self._autoencoder.spec != spec:
                raise AutoencoderError(
                    f"{self._config.autoencoder} is another autoencoder on this node",
                    where=socket.gethostname(),
                    value=f"{self._autoencoder.spec}, and {spec} where the build was started",
                    remedy="install the same version of reencoder, and the same weights, on every node",
                )
        except ReencoderError as error:
            return error
        return owner()

    def build(self, job: Job) -> Record | ReencoderError:
        where = f"{SHARDS}/{job.key} on {socket.gethostname()}"
        form = ShardFormat.of(self._config, channels=self._autoencoder.spec.channels)
        settings = EncodeSettings.of(self._config)
        try:
            with naming_a_full_gpu(where, self._config), naming_a_full_disk(where):
                return build_shard(job, self._autoencoder, self._out, settings=settings, form=form)
        except ReencoderError as error:
            return error


@dataclass(eq=False)
class _Member:
    """An actor and its calls, in their order. The first call has no job: `begin`, which returns the name `owner`."""

    actor: Any
    hand: deque[tuple[ObjectRef[Any], Job | None]]
    owner: str | None = None


def _dismiss(members: Sequence[_Member], store: Store) -> None:
    """End actors that did not end by themselves, and remove what they left half-written."""
    import ray

    for member in members:
        ray.kill(member.actor)
    last = [member.hand[-1][0] for member in members if member.hand]
    if last:
        ray.wait(last, num_returns=len(last), timeout=DISMISS_SECONDS)  # or it could still begin its next shard
    for member in members:
        if member.owner:
            store.sweep(member.owner.__eq__)


def _distribute(
    jobs: Sequence[Job],
    store: Store,
    config: CacheConfig,
    *,
    hire: Callable[[], _Member],
    num_places: Callable[[], int],
) -> Iterator[Record]:
    """Give shards to actors that have begun, and the shards of an actor that died to others.

    Ray's own retries stay off: they tie a task to its actor, which may wait for ever for a place when its node is gone,
    and they do not tell the shard that kills from the one that waits behind it.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    waiting, crew, deaths, most, remaining = deque(jobs), list[_Member](), Counter[str](), 0, len(jobs)
    patient_until = monotonic() + PLACE_SECONDS
    try:
        while remaining:
            most = max(most, num_places())  # never fewer, so that lost actors are replaced
            crew += [hire() for _ in range(min(most, remaining) - len(crew))]
            _hand_out(waiting, crew)
            first = {member.hand[0][0]: member for member in crew if member.hand}
            for ref in ray.wait(list(first), timeout=LOOK_SECONDS)[0]:
                member = first[ref]
                job = member.hand[0][1]
                try:
                    outcome = ray.get(ref)
                except RayTaskError:  # a bug, with the traceback of the actor
                    raise
                except RayError as error:  # the actor, its node or its answer is gone
                    crew.remove(member)
                    _dismiss([member], store)
                    _count(deaths, job, config, error, most_beginnings=MOST_DEATHS * most)
                    member.hand.popleft()
                    waiting.extendleft(behind for _, behind in member.hand if behind)
                    waiting.extend([job] if job else [])  # last: if it is to blame, the others are made before
                    continue
                member.hand.popleft()
                if isinstance(outcome, ReencoderError):
                    raise outcome
                if isinstance(outcome, str):
                    member.owner = outcome
                    del deaths[BEGINNING]
                else:
                    remaining -= 1
                    yield outcome
            if patient_until < monotonic() and not any(member.owner for member in crew):
                patient_until = float("inf")
                free = ray.available_resources()
                warnings.warn(f"no worker began in {PLACE_SECONDS:.0f} s; free in the cluster: {free}", stacklevel=2)
    finally:
        _dismiss(crew, store)


def _hand_out(waiting: deque[Job], crew: Sequence[_Member]) -> None:
    """One shard to each actor without one, and then the next to each."""
    for held in range(IN_HAND):
        for member in crew:
            if waiting and member.owner and len(member.hand) == held:
                job = waiting.popleft()
                member.hand.append((member.actor.build.remote(job), job))


def _count(
    deaths: Counter[str], job: Job | None, config: CacheConfig, error: Exception, *, most_beginnings: int
) -> None:
    """CacheError at the last of MOST_DEATHS: a shard that kills its actors must not go round for ever.

    A dead node also makes actors fail while they begin, once per actor, until Ray notices: those are counted apart.
    """
    deaths[job.key if job else BEGINNING] += 1
    last = " ".join(str(error).split())
    if job is None and deaths[BEGINNING] == most_beginnings:
        raise CacheError(
            f"{most_beginnings} Ray workers in a row died while they loaded {config.autoencoder}",
            value=last,
            remedy="install the same version of reencoder on every node, and have memory for the weights on each",
        ) from None
    if job is not None and deaths[job.key] == MOST_DEATHS:
        names = [track.id for track in job.tracks]
        raise CacheError(
            f"{MOST_DEATHS} Ray workers died while they made this shard, perhaps for want of memory",
            where=f"{SHARDS}/{job.key}",
            value=f"its tracks: {', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}; {last}",
            remedy=f"run again with more memory a worker (fewer `workers`) or smaller shards (--set shard_frames="
            f"{max(1024, config.shard_frames // 2)}), or leave these tracks out",
        ) from None
