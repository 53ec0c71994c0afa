"""Build a latent cache: plan shards, make the missing ones, alone or with other builders, write the index last."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reencoder_pipeline.build.local_workers import run_jobs
from reencoder_pipeline.build.packing import settings
from reencoder_pipeline.build.plan import Plan, plan_build, remarks
from reencoder_pipeline.cache.index import FORMAT, INDEX, Shard, shard_to_dict
from reencoder_pipeline.cache.layout import SHARDS, claim_name, stored_as
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.claims import Claim, Watch, read_holder, take
from reencoder_pipeline.shards.job import Job, is_made_of, is_of
from reencoder_pipeline.shards.record import Record, read_record, read_records, record_digest, statistics, sums_by_tasks
from reencoder_pipeline.shards.reused_tracks import places, sweep_temporary_folders
from reencoder_pipeline.shards.sweep import BUILDER, is_builder, naming_a_full_disk, require_own_place, sweep
from reencoder_pipeline.stores.atomic import FULL_DISK
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.settings_file import begin_with
from reencoder_pipeline.stores.store import Store, is_url, open_store
from reencoder_pipeline.stores.writer_id import owner


@dataclass(frozen=True)
class BuildResult:
    """What was done: shards made now, kept from before, and made meanwhile by other builders; of the tracks in the
    shards made now, those that were encoded and those copied from shards made before; the quarantine; and how many
    files of the source are no tracks, by kind."""

    path: Path | str
    built: int
    kept: int
    num_tracks: int
    num_frames: int
    failures: tuple[dict[str, str], ...]
    by_others: int = 0
    encoded: int = 0
    reused: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


FEW = 256  # shards
Progress = Callable[[int, int], None]  # frames done, frames in all
Say = Callable[[str], None]
Run = Callable[[Sequence[Job]], Iterator[Record | None]]


def build_cache(
    source: Path,
    out: Path | str,
    config: CacheConfig,
    *,
    progress: Progress,
    workers: int,
    say: Say = lambda message: None,
    ray: str | None = None,
) -> BuildResult:
    """Encode a corpus into `out`, a folder or a URL. The same command again goes on where the last run stopped; run
    several times at once, on any machines that reach `out`, it shares the work. `ray`: the address of a cluster that
    does it instead of local processes.

    What a cache holds depends on the corpus, the configuration and the weights alone. Tracks that `out` holds already
    are copied, not encoded; what a cache held before can be read until the new index replaces the old one. Bad files
    are listed in failures.jsonl and left out; nothing replaces them. `say` is told the licence of the weights, every
    note that goes into the index, and who else is at work. CacheError: a build of another corpus runs there, `out` was
    built with other settings, it cannot be written or reached, or the disk is full.
    """
    out = out if is_url(out) else Path(out)
    store = open_store(out)
    require_own_place(store)
    with naming_a_full_disk(out), _at_work(store, config) as me:
        plan = plan_build(source, config)
        for line in remarks(plan):
            say(line)
        begin_with(store, {**settings(config), "autoencoder": plan.spec.autoencoder, "weights": plan.spec.weights})
        watch = Watch(store)
        me.tell(canonical_digest([job.key for job in plan.jobs]))
        sizes = sweep(store, watch=watch)
        _meet(store, me, sizes, watch, say)
        sweep_temporary_folders()

        jobs = {job.key: job for job in plan.jobs}
        there = {
            key: record
            for key, record in read_records(store, jobs, sizes).items()
            if is_made_of(jobs[key], record, config, plan.spec)
        }
        records = {key: record for key, record in there.items() if not record.retry}
        missing = _with_sources(plan, records, there, store, sizes)
        frames = {job.key: job.num_frames for job in missing}
        done, made, kept = plan.num_frames - sum(frames.values()), [], len(records)
        progress(done, plan.num_frames)
        run = _runner(out, config, workers=workers, ray=ray)
        for record in _make(missing, store, config, spec=plan.spec, watch=watch, run=run):
            records[record.shard.key] = record
            if record.reused is not None:
                made.append(record)
            done += frames[record.shard.key]
            progress(done, plan.num_frames)

        ordered = [records[job.key] for job in plan.jobs]
        failures = plan.failures + tuple(failure for record in ordered for failure in record.failures)
        store.write("failures.jsonl", "".join(json.dumps(failure) + "\n" for failure in failures).encode())
        shards = [record.shard for record in ordered if record.shard.tracks]
        if not shards:
            unsuited = f"{plan.num_unsuited} tracks that suit no task of these streams, by their manifest"
            first = f", the first: {failures[0]['error']}" if failures else ""
            value = f"{unsuited}; {len(failures)} failures{first}"
            raise CacheError("not one track could be encoded", where=source, value=value)
        index = _index(plan, config, shards, ordered)
        store.write(INDEX, json.dumps({**index, "digest": canonical_digest(index)}, indent=1).encode())
        sweep(store, keep={job.key for job in plan.jobs}, watch=watch)
    reused = sum(record.reused or 0 for record in made)
    return BuildResult(
        path=out,
        built=len(made),
        kept=kept,
        num_tracks=sum(len(shard.tracks) for shard in shards),
        num_frames=sum(shard.num_frames for shard in shards),
        failures=failures,
        by_others=len(plan.jobs) - kept - len(made),
        encoded=sum(len(record.shard.tracks) for record in made) - reused,
        reused=reused,
        left_out=plan.left_out.counts,
    )


@contextmanager
def _at_work(store: Store, config: CacheConfig) -> Iterator[Claim]:
    """Others can see that this build is there. It is also the first thing written: a wrong `out` is noticed at once."""
    try:
        me = take(store, secrets.token_hex(8) + BUILDER, lease=config.lease)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise CacheError("cannot write here", where=store.url, value=error.strerror) from None
    assert me is not None, "nobody else has this name"
    with me:
        yield me


def _meet(store: Store, me: Claim, sizes: Mapping[str, int], watch: Watch, say: Say) -> None:
    """Who else is at work here. CacheError if a living builder makes something else: each would sweep away the other's.

    Of two that come at the same time at least one sees the other: each says what it is at work on, then lists `sizes`.
    """
    for name in [name for name in sizes if is_builder(name) and name != me.name]:
        first = store.read(name) or b""
        holder = read_holder(first)
        if holder is None or watch.is_free(name):
            continue
        if holder.about in ("", me.about):
            say(f"another build is at work here ({holder.name}): the shards are shared with it")
            continue
        say(f"a build of another corpus was begun here ({holder.name}): waiting to see whether it lives")
        while not watch.is_free(name):
            if store.read(name) not in (first, None):
                raise CacheError(
                    "another build, of another corpus, is running here",
                    where=store.url,
                    value=holder.name,
                    remedy="wait for it, or use another --out",
                )
            time.sleep(_pause(holder.lease))


def _with_sources(
    plan: Plan, records: dict[str, Record], there: dict[str, Record], store: Store, sizes: dict[str, int]
) -> list[Job]:
    """The shards that are missing, each told which of its tracks lie in which shard that was made before."""
    missing = [job for job in plan.jobs if job.key not in records]
    if not missing:
        return []
    names = [name.partition("/")[2] for name in sizes if name.startswith(f"{SHARDS}/") and name.endswith(".json")]
    others = [name.removesuffix(".json") for name in names if "/" not in name]
    planned = {job.key for job in plan.jobs}  # what is no source among these, is not believed for its own shard either
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


def _runner(out: Path | str, config: CacheConfig, *, workers: int, ray: str | None) -> Run:
    if ray is None:
        return lambda jobs: run_jobs(jobs, out, config, workers=workers)
    from reencoder_pipeline.build.ray_workers import run_on_ray

    place = open_store(out) if isinstance(out, str) else out.absolute()
    return lambda jobs: run_on_ray(jobs, place, config, address=ray)


def _make(
    jobs: Sequence[Job], store: Store, config: CacheConfig, *, spec: LatentSpec, watch: Watch, run: Run
) -> Iterator[Record]:
    """The records of all jobs as they are committed, here or by another builder.

    Every builder goes through all that is missing from a place of its own, so that many that begin together do not all
    ask for the same claim, and leaves out what others hold. For that it waits at the end, and makes what they gave up.
    Few shards go by their size, largest first: a large one that begins last leaves all cores but one idle.
    """
    first = int(canonical_digest(owner()), 16) % max(1, len(jobs))
    free, waiting = [*jobs[first:], *jobs[:first]], {job.key: job for job in jobs}
    if len(jobs) <= FEW:
        free.sort(key=lambda job: -job.num_frames)
    while waiting:
        for record in run(free) if free else ():
            if record is not None:
                del waiting[record.shard.key]
                yield record
        free = []
        watch.look_again()
        for key, job in list(waiting.items()):
            record = read_record(store, key)
            if record is not None and is_of(job, record, config, spec):
                del waiting[key]
                yield record
            elif watch.is_free(claim_name(key)):
                free.append(job)
        if waiting and not free:
            time.sleep(_pause(config.lease))


def _pause(lease: float) -> float:
    """Seconds between looks at what others do."""
    return min(4.0, lease / 30)


def _index(plan: Plan, config: CacheConfig, shards: Sequence[Shard], records: Sequence[Record]) -> dict[str, Any]:
    notes = {"notes": list(plan.notes)} if plan.notes else {}
    return {
        **notes,
        "format": FORMAT,
        "storage": config.format,
        "precision": config.precision,
        **stored_as(config),
        "spec": plan.spec.to_dict(),
        "streams": config.streams,
        "low_band": {"rate": config.low_band_rate, "resampler": config.resampler},
        "statistics": {stream: statistics(stream, records) for stream in config.streams},
        **({"sums": sums} if (sums := sums_by_tasks(records)) is not None else {}),
        "shards": [shard_to_dict(shard) for shard in shards],
    }
