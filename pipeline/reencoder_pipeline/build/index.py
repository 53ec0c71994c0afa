"""Writes what completes a cache: failures.jsonl, then the index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reencoder_pipeline.build.plan import Plan
from reencoder_pipeline.cache.index import FORMAT, INDEX, shard_to_dict
from reencoder_pipeline.cache.layout import stored_as
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.record import Record, statistics, sums_by_tasks
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.jsonl import json_lines
from reencoder_pipeline.stores.store import Store


def write_index(plan: Plan, records: Sequence[Record], store: Store, config: CacheConfig, *, source: Path) -> None:
    """`records` are those of all planned shards, in their order. CacheError if no track could be encoded."""
    failures = [*plan.failures, *(failure for record in records for failure in record.failures)]
    store.write("failures.jsonl", json_lines(failures).encode())
    if not any(record.shard.tracks for record in records):
        unsuited = f"{plan.num_unsuited} tracks that suit no task of these streams, by their manifest"
        first = f", the first: {failures[0]['error']}" if failures else ""
        raise CacheError(
            "not one track could be encoded", where=source, value=f"{unsuited}; {len(failures)} failures{first}",
            remedy="correct the files that failures.jsonl names, or give another SOURCE",
        )  # fmt: skip
    low_band = {"rate": config.low_band_rate, "resampler": config.resampler}
    index = index_of(records, spec=plan.spec, config=config, notes=plan.notes, low_band=low_band)
    store.write(INDEX, index.encode())


def index_of(
    records: Sequence[Record],
    *,
    spec: LatentSpec,
    config: CacheConfig,
    notes: Sequence[str],
    low_band: Mapping[str, Any],
) -> str:
    """The content of index.json: of the shards that have tracks, and with its digest."""
    index = {
        **({"notes": list(notes)} if notes else {}),
        "format": FORMAT,
        "storage": config.format,
        "precision": config.precision,
        **stored_as(config),
        "spec": spec.to_dict(),
        "streams": config.streams,
        "low_band": low_band,
        "statistics": {stream: statistics(stream, records) for stream in config.streams},
        **({"sums": sums} if (sums := sums_by_tasks(records)) is not None else {}),
        "shards": [shard_to_dict(record.shard) for record in records if record.shard.tracks],
    }
    return json.dumps({**index, "digest": canonical_digest(index)}, indent=1)
