"""Checks an index and commit records: fields, contradictions, and sizes that cannot hold what is promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from reencoder_pipeline.cache.formats.compression import Compression
from reencoder_pipeline.cache.formats.int8 import is_scale
from reencoder_pipeline.cache.formats.zarr_shards import CHUNK_FRAMES, is_own_file
from reencoder_pipeline.cache.index_fields import IndexFields, RecordFields
from reencoder_pipeline.cache.layout import ShardFormat, group_name, tar_name
from reencoder_pipeline.config import MANTISSA_BITS, MOST_LEVEL
from reencoder_pipeline.errors import CacheError, shown

_INDEX, _RECORD = TypeAdapter(IndexFields), TypeAdapter(RecordFields)


def require_index(values: Mapping[str, Any], *, where: object, remedy: str) -> None:
    """CacheError, naming the field, where an index says something that cannot be true of a cache that we wrote."""
    problem = next(_index_problems(values), None)
    if problem is not None:
        raise CacheError("the index is damaged", where=where, value=problem, remedy=remedy)


def require_record(values: Mapping[str, Any]) -> None:
    """ValueError where a commit record cannot be one of ours."""
    problem = next(_record_problems(values), None)
    if problem is not None:
        raise ValueError(problem)


def _shape_problems(adapter: TypeAdapter[Any], values: Any) -> Iterator[str]:
    try:
        adapter.validate_python(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = shown(".".join(map(str, problem["loc"])), limit=200)
        yield f"{field}: {problem['msg']} ({shown(problem['input'], limit=80, quoted=True)})"


def _index_problems(index: Mapping[str, Any]) -> Iterator[str]:
    yield from _shape_problems(_INDEX, index)
    streams, precision, channels = index["streams"], index["precision"], index["spec"]["channels"]
    if len(set(streams)) < len(streams):
        yield "streams: one is named twice"
    yield from _channel_problems(index["statistics"], streams, channels, where="statistics")
    for number, group in enumerate(index.get("sums", ())):
        yield from _channel_problems(group["streams"], streams, channels, where=f"sums.{number}")
    keys = Counter(shard["key"] for shard in index["shards"])
    if keys and (most := keys.most_common(1)[0])[1] > 1:
        yield f"shards: the shard {most[0]} is there {most[1]} times"
    ids = Counter(track["id"] for shard in index["shards"] for track in shard["tracks"])
    if ids and (most := ids.most_common(1)[0])[1] > 1:
        yield f"shards: the track {shown(most[0], limit=100, quoted=True)} is there {most[1]} times"
    yield from _compression_problems(index)
    compression = Compression(**index["compression"]) if "compression" in index else None
    form = ShardFormat(index["storage"], tuple(streams), precision, channels, compression)
    for shard in index["shards"]:
        yield from _shard_problems(shard)
        yield from layout_problems(shard, form)


def _compression_problems(index: Mapping[str, Any]) -> Iterator[str]:
    compression, keep_bits = index.get("compression"), index.get("keep_bits")
    if compression is not None:
        if index["storage"] != "zarr":
            yield f"compression: {index['storage']} has none"
        if compression["level"] > (most := MOST_LEVEL[compression["codec"]]):
            yield f"compression.level: {compression['level']} is more than {most}"
    if keep_bits is not None and keep_bits >= MANTISSA_BITS.get(index["precision"], 0):
        yield f"keep_bits: {index['precision']} cannot be rounded to {keep_bits} bits"


def _shard_problems(shard: Mapping[str, Any]) -> Iterator[str]:
    """What contradicts itself in one shard, whatever the cache it is in."""
    key, first = shard["key"], 0
    for track in shard["tracks"]:
        where = f"shard {key}, track {shown(track['id'], limit=100, quoted=True)}"
        if track["shard"] != key:
            yield f"{where}: it names the shard {track['shard']}"
        if track["first_frame"] != first:
            yield f"{where}: first_frame is {track['first_frame']}, and the tracks before it have {first} frames"
        if len(set(track["tasks"])) < len(track["tasks"]):
            yield f"{where}: a task is named twice"
        first += track["num_frames"]
    if shard["num_frames"] != first:
        yield f"shard {key}: num_frames is {shard['num_frames']}, and its tracks have {first}"
    for name in shard["files"]:
        inside = name.removeprefix(f"{group_name(key)}/")
        if name != tar_name(key) and (inside == name or not is_own_file(inside)):
            yield f"shard {key}: the file {shown(name, limit=200, quoted=True)} is none of a shard, or lies outside it"
    for name, blocks in shard["blocks"].items():
        rows = len(shard["tracks"]) if is_scale(name) else shard["num_frames"]
        if len(blocks) != -(-rows // CHUNK_FRAMES):
            yield f"shard {key}: {len(blocks)} blocks of {shown(name, limit=50)}, and {rows} rows"


def layout_problems(shard: Mapping[str, Any], form: ShardFormat) -> Iterator[str]:
    """Whether the files and blocks are those of a shard in this format, and have sizes that can hold its frames."""
    key, files, names = shard["key"], shard["files"], form.names
    if not shard["tracks"]:
        yield f"shard {key}: it holds no tracks"
    if set(shard["blocks"]) != set(names):
        yield f"shard {key}: blocks are of {sorted(shard['blocks'])}, not of {names}"
    if form.storage == "webdataset":
        tar = tar_name(key)
        frames = shard["num_frames"] * form.channels * form.dtype.itemsize * len(form.streams)
        if set(files) != {tar}:
            yield f"shard {key}: its file is not {tar}"
        elif files[tar][0] < frames:
            yield f"shard {key}: {files[tar][0]} bytes cannot hold its {frames} bytes of frames"
        return
    for name in names:
        data = form.data_name(key, name)
        smallest, largest = form.sizes(name, rows=len(shard["tracks"]) if is_scale(name) else shard["num_frames"])
        if data not in files:
            yield f"shard {key}: the file {data} is missing"
        elif not smallest <= files[data][0] <= largest:
            expected = smallest if smallest == largest else f"{smallest} to {largest}"
            yield f"shard {key}: {data} has {files[data][0]} bytes, and its frames make {expected}"
    folders = {name.removeprefix(f"{group_name(key)}/").partition("/")[0] for name in files}
    if others := folders - {*names, "zarr.json"}:
        yield f"shard {key}: {sorted(others)[0]} is none of its streams"


def _record_problems(record: Mapping[str, Any]) -> Iterator[str]:
    yield from _shape_problems(_RECORD, record)
    shard = record["shard"]
    yield from _shard_problems(shard)
    ids = [track["id"] for track in shard["tracks"]]
    if len(set(ids)) < len(ids):
        yield "a track is there twice"
    if (recipes := record.get("recipes")) and len(recipes) != len(ids):
        yield "not one recipe a track"
    for which, streams in record["sums"].items():
        lengths = {len(values) for sums in streams.values() for values in (sums["total"], sums["squares"])}
        if len(lengths) > 1:
            yield f"sums.{which}: not of the same channels"


def _channel_problems(values: Mapping[str, Any], streams: Sequence[str], channels: int, *, where: str) -> Iterator[str]:
    """Whether statistics or sums are those of the streams, with one number of each a channel."""
    if set(values) != set(streams):
        yield f"{where}: not those of the streams"
    for stream, one in values.items():
        if any(len(numbers) != channels for name, numbers in one.items() if name != "count"):
            yield f"{where}.{stream}: not one of each of {channels} channels"
