"""Build a latent cache: plan shards, make the missing ones, write the index last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from reencoder_pipeline.build.build_lock import build_lock, remove_ended_locks
from reencoder_pipeline.build.index import write_index
from reencoder_pipeline.build.local_workers import run_jobs
from reencoder_pipeline.build.packing import settings
from reencoder_pipeline.build.parts import Part, jobs_of
from reencoder_pipeline.build.plan import Plan, plan_build, remarks
from reencoder_pipeline.cache.layout import ShardFormat, record_key
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.progress import Progress, Say
from reencoder_pipeline.shards.job import Job, is_made_of
from reencoder_pipeline.shards.record import Record, read_records, record_digest
from reencoder_pipeline.shards.reused_tracks import places, sweep_temporary_folders
from reencoder_pipeline.shards.sweep import naming_a_full_disk, require_own_place, sweep
from reencoder_pipeline.stores.settings_file import begin_with
from reencoder_pipeline.stores.store import Store, is_url, open_store


@dataclass(frozen=True)
class BuildResult:
    """Counts of a build: shards made now and kept from before; tracks of the shards made now that were encoded, and
    that were copied from earlier shards; the quarantine; and files of the source that are no tracks, by kind. The
    result of a part counts only its own shards."""

    path: Path | str
    built: int
    kept: int
    num_tracks: int
    num_frames: int
    failures: tuple[dict[str, str], ...]
    encoded: int
    reused: int
    left_out: dict[str, int] = field(default_factory=dict)


Run = Callable[[Sequence[Job], Path | str, CacheConfig], Iterator[Record]]
"""Makes shards in `out`, in any order, and gives their records as they are committed."""


def build_cache(
    source: Path,
    out: Path | str,
    config: CacheConfig,
    *,
    progress: Progress,
    workers: int = 1,
    say: Say = lambda message: None,
    ray: str | None = None,
    part: Part | None = None,
    run: Run | None = None,
) -> BuildResult:
    """Encode a corpus into `out`, a folder or a URL. The same call again goes on where the last one stopped.

    What a cache holds depends on the corpus, the configuration and the weights alone. Tracks that `out` holds already
    are copied, not encoded; what a cache held before can be read until the new index replaces the old one. Bad files
    are listed in failures.jsonl and left out; nothing replaces them. `say` gets the licence of the weights and every
    note that goes into the index.

    `part`: make its share of the shards only, and no index; the call without a part keeps what parts have made. Shards
    are made by `workers` processes of this machine, one being this process; by the cluster at the address `ray`; or by
    `run`. ConfigError: the same build is running there. CacheError: `out` was begun with other settings, it cannot be
    written or reached, or the disk is full.

    Example::

        build_cache(Path("music"), Path("cache"), CacheConfig(), progress=lambda done, total: None)
    """
    out = out if is_url(out) else Path(out)
    store, run = open_store(out), run or _runner(workers=workers, ray=ray, part=part)
    require_own_place(store)
    with naming_a_full_disk(out), build_lock(store, part):
        plan = plan_build(source, config)
        for line in remarks(plan):
            say(line)
        begin_with(store, {**settings(config), "autoencoder": plan.spec.autoencoder, "weights": plan.spec.weights})
        records = _make(plan, out, config, part=part, run=run, progress=progress)
        if part is None:
            write_index(plan, records, store, config, source=source)
            sweep(store, {job.key for job in plan.jobs}, finished=True)
    return _result(plan, records, out=out, part=part)


def _runner(*, workers: int, ray: str | None, part: Part | None) -> Run:
    if ray is None:
        return partial(run_jobs, workers=workers)
    if part is not None:
        raise ConfigError(
            "a part is made on this machine, and Ray shares out the whole build", where="--part", value=part,
            remedy="give either --ray or --part",
        )  # fmt: skip
    from reencoder_pipeline.build.ray_workers import run_on_ray

    return partial(run_on_ray, address=ray)


def _make(
    plan: Plan, out: Path | str, config: CacheConfig, *, part: Part | None, run: Run, progress: Progress
) -> list[Record]:
    """The records of all planned shards, or of those of a part, in their order; what is missing is made.

    Large shards are made first: a large one that begins last leaves all cores but one idle.
    """
    store, jobs = open_store(out), plan.jobs if part is None else jobs_of(plan.jobs, part)
    sweep_temporary_folders()
    if part is None:
        sizes = sweep(store, {job.key for job in plan.jobs})
        remove_ended_locks(store, sizes)
    else:
        sizes = store.sizes()
    by_key, form = {job.key: job for job in jobs}, ShardFormat.of(config, channels=plan.spec.channels)
    there = {
        key: record
        for key, record in read_records(store, by_key, sizes).items()
        if is_made_of(by_key[key], record, form, plan.spec)
    }
    records = {key: record for key, record in there.items() if not record.retry}
    missing = _with_sources([job for job in jobs if job.key not in records], plan, there, store, sizes)
    total = sum(job.num_frames for job in jobs)
    done = total - sum(job.num_frames for job in missing)
    progress(done, total)
    for record in run(sorted(missing, key=lambda job: -job.num_frames), out, config):
        records[record.shard.key] = record
        done += by_key[record.shard.key].num_frames
        progress(done, total)
    return [records[job.key] for job in jobs]


def _with_sources(
    missing: Sequence[Job], plan: Plan, there: dict[str, Record], store: Store, sizes: dict[str, int]
) -> list[Job]:
    """The missing shards, each with the shards made before that hold some of its tracks."""
    if not missing:
        return []
    others = [key for key in map(record_key, sizes) if key is not None]
    planned = {job.key for job in plan.jobs}  # a planned shard is a source only if it is in `there`
    stale = read_records(store, [key for key in others if key not in planned], sizes)
    known = places([*there.values(), *stale.values()])
    return [
        replace(
            job,
            sources={recipe: known[recipe] for recipe in job.recipes if recipe in known},
            replaces=record_digest(there[job.key]) if job.key in there else None,
        )
        for job in missing
    ]


def _result(plan: Plan, records: Sequence[Record], *, out: Path | str, part: Part | None) -> BuildResult:
    made = [record for record in records if record.reused is not None]
    reused = sum(record.reused or 0 for record in made)
    failures = tuple(failure for record in records for failure in record.failures)
    return BuildResult(
        path=out,
        built=len(made),
        kept=len(records) - len(made),
        num_tracks=sum(len(record.shard.tracks) for record in records),
        num_frames=sum(record.shard.num_frames for record in records),
        failures=failures if part else plan.failures + failures,
        encoded=sum(len(record.shard.tracks) for record in made) - reused,
        reused=reused,
        left_out=plan.left_out.counts,
    )
