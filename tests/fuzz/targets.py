"""Every reader of foreign bytes as a target: its sound contents, how they are damaged, and how they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors
import safetensors.torch
import yaml
from hypothesis import strategies as st

from fuzz.mutations import as_json, damaged_bytes, damaged_json
from fuzz.workspace import Workspace
from reencoder_eval.apply.files.latents_io import read_latents as read_latents_file
from reencoder_eval.baselines.aero.checkpoint import load_aero_weights
from reencoder_eval.baselines.musichifi.checkpoint import load_musichifi
from reencoder_eval.config import AutoencoderEvalConfig, BaselineTrainConfig, EvalConfig
from reencoder_eval.tables.score_tables import write_tables
from reencoder_pipeline.audio.read import audio_header, read_blocks
from reencoder_pipeline.audio.survey import survey
from reencoder_pipeline.autoencoder import FAMILIES, load_autoencoder
from reencoder_pipeline.autoencoders.find_weights import find_source
from reencoder_pipeline.autoencoders.hub import Options
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.autoencoders.vocos.weights import load_vocos
from reencoder_pipeline.cache.index import INDEX
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import CacheConfig, load_config
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.errors import ReencoderError
from reencoder_pipeline.exchange.items import find_items
from reencoder_pipeline.exchange.stable_audio_format import frames_in, read_fields, read_latents
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.shards.record import read_record
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.training.metrics_log import MetricsLog
from reencoder_pipeline.training.state_file import read_state
from reencoder_pipeline.training.weights_file import HEADER, content_digest
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.run_list import list_runs
from reencoder_trainer.trained_module import load_module

NAMES = (
    "audio_a_wav",
    "audio_float_wav",
    "audio_x_wav",
    "audio_a_flac",
    "audio_a_ogg",
    "audio_a_opus",
    "audio_a_mp3",
    "audio_a_aiff",
    "audio_a_au",
    "audio_a_caf",
    "audio_a_w64",
    "audio_a_rf64",
    "manifest_bytes",
    "list_bytes",
    "manifest_row",
    "config_cacheconfig",
    "config_trainconfig",
    "config_evalconfig",
    "config_autoencoderevalconfig",
    "config_baselinetrainconfig",
    "config_autoencodertrainconfig",
    "yaml_cacheconfig",
    "yaml_trainconfig",
    "yaml_evalconfig",
    "index_zarr",
    "index_webdataset",
    "index_int8",
    "index_bytes",
    "record",
    "zarr_json_0",
    "zarr_json_1",
    "zarr_data",
    "int8_scales",
    "tar",
    "module_header",
    "module_bytes",
    "state",
    "metrics",
    "metrics_row",
    "scores_row",
    "scores",
    "sidecar",
    "sidecar_bytes",
    "item_npy",
    "latents_npy",
    "aero_safetensors",
    "aero_th",
    "musichifi",
    "vocos",
    "autoencoder_config",
)

Read = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """`damaged` draws contents, `sound` are undamaged ones; `read` puts one into an empty folder and reads it."""

    name: str
    damaged: st.SearchStrategy[bytes]
    sound: tuple[bytes, ...]
    read: Read


def make_targets(there: Workspace) -> dict[str, Target]:
    targets = [
        *_audio(there), *_texts(there), *_cache(there), *_modules(there), *_runs(there), *_items(there),
        *_weights(there),
    ]  # fmt: skip
    return {target.name: target for target in targets}


def of_bytes(name: str, sound: list[bytes], read: Read) -> Target:
    return Target(name, damaged_bytes(sound), tuple(sound), read)


def of_json(name: str, values: list[Any], read: Read) -> Target:
    """A content is JSON text whose members are damaged; `read` makes digests fit again, as a hostile writer can."""
    return Target(name, damaged_json(values).map(as_json), tuple(as_json(value) for value in values), read)


def _audio(there: Workspace) -> list[Target]:
    def reader(suffix: str) -> Read:
        def read(content: bytes, folder: Path) -> None:
            path = folder / f"a{suffix}"
            path.write_bytes(content)
            errors = []
            for use in (audio_header, lambda path: [block.shape for block, _ in read_blocks(path)], survey):
                try:
                    use(path)
                except ReencoderError as error:
                    errors.append(error)
            if errors:
                raise errors[0]

        return read

    return [
        of_bytes(f"audio_{path.name.replace('.', '_')}", [path.read_bytes()], reader(path.suffix))
        for path in there.sounds
    ]


def _texts(there: Workspace) -> list[Target]:
    row = {
        "path": "a.wav", "id": "a", "split": "train", "sha256": "0" * 64, "num_samples": 88_200, "sample_rate": 44_100,
        "tasks": ["bwe"], "licence": "CC0",
    }  # fmt: skip
    lhotse = {"id": "b", "recording": "r", "sources": [{"type": "file", "source": "b.wav"}]}
    manifest = "\n".join(map(json.dumps, (row, lhotse))).encode()

    def corpus(name: str) -> Read:
        return lambda content, folder: (_put(folder / name, content), read_corpus(folder / name))

    configs = {
        CacheConfig: CacheConfig.model_validate({}).model_dump(mode="json"),
        TrainConfig: TrainConfig.model_validate({"cache": "c", "out": "o"}).model_dump(mode="json"),
        EvalConfig: {"source": "m", "out": "o", "modules": [{"label": "a", "path": "b"}], "num_clips": 3},
        AutoencoderEvalConfig: {"source": "m", "num_clips": 3},
        BaselineTrainConfig: {"baseline": "aero", "source": "m", "pcm": "p", "out": "o", "steps": 5},
        AutoencoderTrainConfig: {"source": "m", "pcm": "p", "out": "o", "steps": 5},
    }

    def config(kind: Any) -> Read:
        return lambda content, folder: load_config(_put(folder / "config.yaml", content), kind)

    named = [(kind.__name__.lower(), kind, values) for kind, values in configs.items()]
    return [
        of_bytes("manifest_bytes", [manifest], corpus("m.jsonl")),
        of_bytes("list_bytes", [b"a.wav\n/b/c.flac\n~/x.wav\n"], corpus("m.txt")),
        of_json("manifest_row", [row, lhotse], corpus("m.jsonl")),
        *(of_json(f"config_{name}", [values], config(kind)) for name, kind, values in named),
        *(
            of_bytes(f"yaml_{name}", [yaml.safe_dump(values).encode()], config(kind))
            for name, kind, values in named[:3]
        ),
    ]


def _cache(there: Workspace) -> list[Target]:
    def index_of(cache: Path) -> dict[str, Any]:
        return json.loads((cache / INDEX).read_bytes())

    def read_all(cache: Path) -> None:
        opened = open_cache(cache, checked=True)
        for track in opened.tracks:
            for stream in opened.streams:
                opened.read(track, stream)

    def place(cache: Path, folder: Path) -> Path:
        return Path(shutil.copytree(cache, folder / "cache", copy_function=os.link))

    def refitted(cache: Path, name: str, content: bytes) -> None:
        """Put a file into a cache, and let sizes and digests in the index fit it."""
        _put(cache / name, content)
        index = index_of(cache)
        index.pop("digest", None)
        for shard in index["shards"]:
            if name in shard["files"]:
                shard["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
        _put(cache / INDEX, as_json({**index, "digest": canonical_digest(index)}))

    def read_index(name: str) -> Read:
        def read(content: bytes, folder: Path) -> None:
            cache, index = place(there.caches[name], folder), json.loads(content)
            if isinstance(index, dict):
                index.pop("digest", None)
                content = as_json({**index, "digest": canonical_digest(index)})
            _put(cache / INDEX, content)
            read_all(cache)

        return read

    def read_raw_index(content: bytes, folder: Path) -> None:
        cache = place(there.caches["zarr"], folder)
        _put(cache / INDEX, content)
        read_all(cache)

    def file_reader(name: str, file: str) -> Read:
        def read(content: bytes, folder: Path) -> None:
            cache = place(there.caches[name], folder)
            refitted(cache, file, content)
            read_all(cache)
            verify_cache(open_cache(cache))

        return read

    def read_commit(content: bytes, folder: Path) -> None:
        cache, values = place(there.caches["zarr"], folder), json.loads(content)
        if isinstance(values, dict):
            values.pop("digest", None)
            content = as_json({**values, "digest": canonical_digest(values)})
        _put(cache / record, content)
        read_record(cache, Path(record).stem)

    zarr, tar, eight = (there.caches[name] for name in ("zarr", "webdataset", "int8"))
    record = next(iter(sorted(zarr.glob("shards/*.json")))).relative_to(zarr).as_posix()
    described = [p.relative_to(zarr).as_posix() for p in sorted(zarr.glob("shards/*/**/zarr.json"))][:2]
    data = next(iter(sorted(zarr.glob("shards/*/mono/c/0/0")))).relative_to(zarr).as_posix()
    scale = next(iter(sorted(eight.glob("shards/*/mono_scale/c/0/0")))).relative_to(eight).as_posix()
    member = next(iter(sorted(tar.glob("shards/*.tar")))).relative_to(tar).as_posix()
    return [
        *(of_json(f"index_{name}", [index_of(cache)], read_index(name)) for name, cache in there.caches.items()),
        of_bytes("index_bytes", [(zarr / INDEX).read_bytes()], read_raw_index),
        of_json("record", [json.loads((zarr / record).read_bytes())], read_commit),
        *(
            of_json(f"zarr_json_{n}", [json.loads((zarr / name).read_bytes())], file_reader("zarr", name))
            for n, name in enumerate(described)
        ),
        of_bytes("zarr_data", [(zarr / data).read_bytes()], file_reader("zarr", data)),
        of_bytes("int8_scales", [(eight / scale).read_bytes()], file_reader("int8", scale)),
        of_bytes("tar", [(tar / member).read_bytes()], file_reader("webdataset", member)),
    ]


def _modules(there: Workspace) -> list[Target]:
    files = [run / "module.safetensors" for run in there.runs.values()]
    headers, tensors = [], {}
    for file in files:
        with safetensors.safe_open(file, "pt") as opened:
            headers.append(json.loads((opened.metadata() or {})[HEADER]))
            tensors[headers[-1]["task"]["name"]] = safetensors.torch.load_file(file)

    def read_header(content: bytes, folder: Path) -> None:
        header = json.loads(content)
        task = header.get("task") if isinstance(header, dict) else None
        name = task.get("name") if isinstance(task, dict) else None
        state = tensors[name if isinstance(name, str) and name in tensors else "bwe"]
        if isinstance(header, dict):
            header.pop("sha256", None)
            header["sha256"] = content_digest(header, state)
        text = json.dumps(header)
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            return  # safetensors cannot be made of it
        load_module(_put(folder / "m.safetensors", safetensors.torch.save(state, metadata={HEADER: text})))

    return [
        of_json("module_header", headers, read_header),
        of_bytes(
            "module_bytes", [file.read_bytes() for file in files],
            lambda content, folder: load_module(_put(folder / "m.safetensors", content)),
        ),
    ]  # fmt: skip


def _runs(there: Workspace) -> list[Target]:
    states = [(run / "state.pt").read_bytes() for run in there.runs.values()]
    metrics = (there.runs["l1"] / "metrics.jsonl").read_bytes()
    config = (there.runs["l1"] / "config.yaml").read_bytes()
    scores = Path(__file__).parents[2].joinpath("results/m2s/scores.jsonl").read_bytes().splitlines()[:3]

    def read_metrics(content: bytes, folder: Path) -> None:
        path = _put(folder / "run/metrics.jsonl", content)
        _put(folder / "run/config.yaml", config)
        list_runs(folder)
        MetricsLog(path.parent, step=1, log_every=1, say=lambda text: None).__exit__()

    def read_scores(content: bytes, folder: Path) -> None:
        _put(folder / "scores.jsonl", b"\n".join([content, *scores, b""]))
        write_tables(folder)

    return [
        of_bytes(
            "state", states, lambda content, folder: read_state(_put(folder / "state.pt", content), kind="module")
        ),
        of_bytes("metrics", [metrics], read_metrics),
        of_json(
            "metrics_row", [json.loads(metrics.splitlines()[0])], lambda c, f: read_metrics(c + b"\n" + metrics, f)
        ),
        of_json("scores_row", [json.loads(scores[0])], read_scores),
        of_bytes("scores", [scores[0]], read_scores),
    ]


def _items(there: Workspace) -> list[Target]:
    fields, arrays = sorted(there.items.rglob("*.json")), sorted(there.items.rglob("*.npy"))
    spec = load_autoencoder(str(there.autoencoder)).spec
    known = read_fields(fields[0])

    def read_sidecar(content: bytes, folder: Path) -> None:
        shutil.copytree(there.items, folder / "items")
        _put(folder / "items" / fields[0].relative_to(there.items), content)
        find_items({"mono": folder / "items"}, spec)

    def read_array(content: bytes, folder: Path) -> None:
        path = _put(folder / "a.npy", content)
        content = read_latents(path, channels=spec.channels, length=known.length)
        frames_in(content, channels=spec.channels, fields=known, precision="float16", where=path)

    def read_file(content: bytes, folder: Path) -> None:
        read_latents_file(_put(folder / "a.npy", content))

    array = arrays[0].read_bytes()
    return [
        of_json("sidecar", [json.loads(fields[0].read_bytes())], read_sidecar),
        of_bytes("sidecar_bytes", [fields[0].read_bytes()], read_sidecar),
        of_bytes("item_npy", [array], read_array),
        of_bytes("latents_npy", [array], read_file),
    ]


def _weights(there: Workspace) -> list[Target]:
    def aero(suffix: str) -> Read:
        return lambda content, folder: load_aero_weights(_put(folder / f"a{suffix}", content))

    return [
        *(of_bytes(f"aero_{path.suffix[1:]}", [path.read_bytes()], aero(path.suffix)) for path in there.aero),
        of_bytes(
            "musichifi", [there.musichifi.read_bytes()],
            lambda content, folder: load_musichifi(_put(folder / "m.safetensors", content), task="bwe"),
        ),
        of_bytes(
            "vocos", [there.autoencoder.read_bytes()],
            lambda content, folder: load_vocos(_put(folder / "v.safetensors", content)),
        ),
        of_bytes(
            "autoencoder_config",
            [b'{"_class_name": "AutoencoderOobleck", "sampling_rate": 44100}', b'{"model_type": "dac"}'],
            lambda content, folder: find_source(
                str(_put(folder / "model/config.json", content).parent), Options(), families=tuple(FAMILIES),
            ),
        ),
    ]  # fmt: skip


def _put(path: Path, content: bytes) -> Path:
    """The file anew: one that is there may be linked from elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def run(target: Target, content: bytes, *, parent: Path | None = None) -> ReencoderError | None:
    """One trial in a folder of its own; see `fuzz.guard.judge`."""
    from fuzz.guard import judge

    with TemporaryDirectory(dir=parent) as folder:
        return judge(lambda: target.read(content, Path(folder)), size=len(content))
