"""Writes what completes a cache: failures.jsonl, then the index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reencoder_pipeline.build.plan import Plan
from reencoder_pipeline.cache.index import FORMAT, INDEX, Shard, shard_to_dict
from reencoder_pipeline.cache.layout import stored_as
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shards.record import Record, statistics, sums_by_tasks
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.jsonl import json_lines
from reencoder_pipeline.stores.store import Store


def write_index(plan: Plan, records: Sequence[Record], store: Store, config: CacheConfig, *, source: Path) -> None:
    """`records` are those of all planned shards, in their order. CacheError if no track could be encoded."""
    failures = [*plan.failures, *(failure for record in records for failure in record.failures)]
    store.write("failures.jsonl", json_lines(failures).encode())
    shards = [record.shard for record in records if record.shard.tracks]
    if not shards:
        unsuited = f"{plan.num_unsuited} tracks that suit no task of these streams, by their manifest"
        first = f", the first: {failures[0]['error']}" if failures else ""
        raise CacheError(
            "not one track could be encoded", where=source, value=f"{unsuited}; {len(failures)} failures{first}",
            remedy="correct the files that failures.jsonl names, or give another SOURCE",
        )  # fmt: skip
    index = _index(plan, config, shards, records)
    store.write(INDEX, json.dumps({**index, "digest": canonical_digest(index)}, indent=1).encode())


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
