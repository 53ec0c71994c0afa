"""Builds on a Ray cluster: workers and nodes die in the middle, and the cache is that of a build without Ray."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from command_line import search_path
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.build import ray_workers
from reencoder_pipeline.build.build import BuildResult, Progress, build_cache
from reencoder_pipeline.build.plan import plan_build
from reencoder_pipeline.build.ray_workers import ShardTask, make_shard, run_on_ray
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import AutoencoderError, CacheError, ConfigError, ReencoderError
from reencoder_pipeline.shards.record import Record
from reencoder_pipeline.stores.store import open_store
from tiny_build import NUM_SHARDS, SlowAutoencoder, build, leftovers, shard_files, tiny_config, tree

# Not importorskip: Ray reads its settings when it is imported.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
PATIENCE = 120.0  # seconds; for machines that are busy with something else
KILLED = signal.SIGKILL


@pytest.fixture(scope="module")
def music_and_a_bad_file(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(music, tmp_path_factory.mktemp("corpus") / "music"))
    content = (folder / "mono.wav").read_bytes()
    (folder / "cut.wav").write_bytes(content[: len(content) // 10])
    return folder


@pytest.fixture(scope="module")
def quiet(music_and_a_bad_file: Path, tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that a build without Ray makes."""
    out = tmp_path_factory.mktemp("quiet") / "cache"
    assert [row["id"] for row in build(music_and_a_bad_file, out, tiny_autoencoder).failures] == ["cut.wav"]
    return out


@pytest.fixture(scope="module")
def cluster(tiny_autoencoder: Path) -> Iterator[Any]:
    """Two nodes of one CPU each, and a head that encodes nothing. Afterwards no process of it is alive."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("looks for processes in /proc")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TINY_AUTOENCODER", str(tiny_autoencoder))  # nodes inherit these
        environment.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{search_path()}")
        ray_workers.require_ray()
        from ray.cluster_utils import Cluster

        # Ray's workers are nicer than anybody (15): on a busy machine they would hardly come to run.
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": {"worker_niceness": 0}}
        started = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                started.add_node(num_cpus=1)
            yield started
            workers = [pid for node in started.list_all_nodes() for pid in children(raylet_of(node))]
            assert workers
        finally:
            started.shutdown()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.fixture
def build_on(cluster: Any, music_and_a_bad_file: Path) -> Iterator[Callable[..., BuildResult]]:
    """build_on(out, autoencoder, progress): on the cluster. Afterwards no shard of this test is being made."""

    def built(out: Path, autoencoder: Path | str, progress: Progress = lambda done, total: None) -> BuildResult:
        config = tiny_config(autoencoder)
        return build_cache(music_and_a_bad_file, out, config, progress=progress, workers=1, ray=cluster.address)

    yield built
    wait_until(lambda: not any(tasks_on(node) for node in cluster.list_all_nodes()))


# Deaths


@pytest.mark.slow
def test_interrupted_and_gone_on_with_while_a_worker_is_killed(
    build_on: Callable[..., BuildResult],
    cluster: Any,
    quiet: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "cache"

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_on(out, "test_ray:load_slow", interrupt)
    wait_until(lambda: not any(tasks_on(node) for node in cluster.list_all_nodes()))
    committed = len(list(out.glob("shards/*.json")))
    assert 1 <= committed < NUM_SHARDS

    kept, killed = [], []

    def kill(done: int, total: int) -> None:
        kept.append(done)
        if done > kept[0] and not killed:
            killed.append(wait_for(lambda: [pid for node in cluster.worker_nodes for pid in tasks_on(node)]))
            os.kill(killed[0], KILLED)

    result = build_on(out, "test_ray:load_slow", kill)
    assert killed
    assert (result.kept, result.built) == (committed, NUM_SHARDS - committed)
    assert tree(out) == tree(quiet)  # failures.jsonl too
    assert open_cache(out).digest == open_cache(quiet).digest
    assert leftovers(out) == []
    assert capfd.readouterr().out == ""  # it belongs to data


@pytest.mark.slow
def test_all_nodes_die_and_another_joins(
    build_on: Callable[..., BuildResult], cluster: Any, quiet: Path, tmp_path: Path
) -> None:
    """The build can only end if what the lost nodes had in hand is done by a node that was not there at the start."""
    out, lost = tmp_path / "cache", list(cluster.worker_nodes)

    def kill(done: int, total: int) -> None:
        if done and lost:
            wait_for(lambda: [pid for node in lost for pid in tasks_on(node)])
            for node in lost:
                os.kill(raylet_of(node), KILLED)
                cluster.remove_node(node)
            lost.clear()
            cluster.add_node(num_cpus=1)

    result = build_on(out, "test_ray:load_slow", kill)
    assert lost == []
    assert (result.kept, result.built) == (0, NUM_SHARDS)
    assert tree(out) == tree(quiet)
    assert leftovers(out) == []


@pytest.mark.slow
def test_a_shard_that_kills_is_named_and_the_others_are_made(
    build_on: Callable[..., BuildResult], quiet: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    with pytest.raises(CacheError, match=r"(?s)shards/.*: 3 Ray workers died.*its tracks: .*zeros\.wav.*shard_frames="):
        build_on(out, "test_ray:load_deadly")
    made, whole = shard_files(out), shard_files(quiet)
    assert made.items() < whole.items()
    assert len(list(out.glob("shards/*.json"))) == NUM_SHARDS - 1  # it was tried again when the others were made
    with pytest.raises(CacheError, match="not complete"):
        open_cache(out)


# Errors


@pytest.mark.slow
def test_errors_of_workers_arrive_as_they_are(build_on: Callable[..., BuildResult], tmp_path: Path) -> None:
    with pytest.raises(AutoencoderError, match="no such autoencoder") as caught:
        build_on(tmp_path / "cache", "test_ray:load_elsewhere")
    assert type(caught.value) is AutoencoderError
    assert str(caught.value).splitlines() == ["no such autoencoder", "  found: on that node"]

    with pytest.raises(ZeroDivisionError, match=r"(?s)in strike.*of silence"):  # a bug: with the traceback of there
        build_on(tmp_path / "cache", "test_ray:load_faulty")


def test_what_a_node_does_not_have_is_named(tiny_autoencoder: Path, music: Path, tmp_path: Path) -> None:
    config, out, mark = tiny_config(tiny_autoencoder), tmp_path / "out", "mark"
    (out / "shards").mkdir(parents=True)
    (job, *_) = plan_build(music, config).jobs
    spec = load_autoencoder(config.autoencoder).spec
    task = ShardTask(open_store(out), config, spec, Path.cwd(), music / "mono.wav", mark, "cpu")

    gone = replace(task, music=tmp_path / "gone.wav")
    assert_error(make_shard(job, gone), CacheError, f"{gone.music}: the music is not on node")
    assert_error(make_shard(job, task), CacheError, f"{out}: --out is not on node")
    (out / mark).write_text("")
    here = Path.cwd()
    try:
        relative = replace(task, music=Path("mono.wav"), folder=music)  # as on the command line of the build
        assert isinstance(make_shard(job, relative), Record)
    finally:
        os.chdir(here)
    other = replace(task, spec=load_autoencoder("house").spec)
    assert_error(make_shard(job, other), AutoencoderError, "is another autoencoder on this node")
    if not torch.cuda.is_available():
        assert_error(make_shard(job, replace(task, device="cuda")), AutoencoderError, "a torch that sees none")


@pytest.mark.parametrize(("batch", "remedy"), [(8, "batch_segments=4"), (1, "segment_seconds=0.75")])
def test_a_full_gpu_is_named_with_a_smaller_batch(
    music: Path, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, remedy: str
) -> None:
    monkeypatch.setenv("TINY_AUTOENCODER", str(tiny_autoencoder))
    monkeypatch.chdir(tmp_path)
    config = tiny_config("test_ray:load_full", batch_segments=batch)
    (job, *_) = plan_build(music, config).jobs
    spec = load_autoencoder(config.autoencoder).spec
    (tmp_path / "mark").write_text("")
    error = make_shard(job, ShardTask(open_store(tmp_path), config, spec, tmp_path, job.tracks[0].path, "mark", "cpu"))
    assert_error(error, CacheError, f"--set {remedy}, into another --out")
    assert_error(error, CacheError, f"batch_segments={batch}, segment_seconds=1.5; CUDA out of memory. Tried")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: no Ray cluster answers"),
        ("nobody.invalid:6379", "no Ray cluster answers"),
        ("127.0.0.1", "this is no address of a Ray cluster"),
        ("ray://127.0.0.1:10001", "this is no address of a Ray cluster"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
    ],
)
def test_a_cluster_that_is_not_there(jobs: Any, tiny_autoencoder: Path, address: str, what: str) -> None:
    with pytest.raises(ReencoderError, match="ray start --head") as caught:
        next(run_on_ray(jobs, Path("out"), tiny_config(tiny_autoencoder), address=address))
    assert what in str(caught.value)


def test_without_ray(jobs: Any, tiny_autoencoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'reencoder\[ray\]'"):
        next(run_on_ray(jobs, Path("out"), tiny_config(tiny_autoencoder), address="local"))


@pytest.fixture(scope="module")
def jobs(music: Path, tiny_autoencoder: Path) -> Any:
    return plan_build(music, tiny_config(tiny_autoencoder)).jobs


def assert_error(found: object, kind: type[ReencoderError], text: str) -> None:
    assert type(found) is kind
    assert text in str(found)


# Autoencoders, for workers


class Struck(SlowAutoencoder):
    """Something happens to it at certain audio."""

    def __init__(self, inner: Autoencoder, strike: Callable[[], None], by: Callable[[Tensor], bool]) -> None:
        super().__init__(inner, seconds=0.0)
        self._strike, self._by = strike, by

    def encode(self, audio: Tensor) -> Tensor:
        if self._by(audio):
            self._strike()
        return super().encode(audio)


def is_silent(audio: Tensor) -> bool:
    return not audio.any()


def load_slow(device: str) -> Autoencoder:
    return SlowAutoencoder(load_autoencoder(os.environ["TINY_AUTOENCODER"], device=device), seconds=0.05)


def load_deadly(device: str) -> Autoencoder:
    return Struck(load_slow(device), lambda: os.kill(os.getpid(), KILLED), is_silent)


def load_faulty(device: str) -> Autoencoder:
    def strike() -> None:
        raise ZeroDivisionError("of silence")

    return Struck(load_slow(device), strike, is_silent)


def load_full(device: str) -> Autoencoder:
    def strike() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")

    return Struck(load_slow(device), strike, lambda audio: True)


def load_elsewhere(device: str) -> Autoencoder:
    """Can be loaded by the build, and not by its workers."""
    if Path(sys.argv[0]).name == "default_worker.py":
        raise AutoencoderError("no such autoencoder", value="on that node")
    return load_slow(device)


# Processes


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def tasks_on(node: Any) -> list[int]:
    """Processes of a node that make a shard."""
    return [pid for pid in children(raylet_of(node)) if read(pid, "comm").startswith("ray::make_shard")]


def children(parent: int) -> list[int]:
    """Those that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*"):
        fields = read(int(stat.name), "stat").rpartition(")")[2].split()
        if fields and fields[0] not in "ZX" and int(fields[1]) == parent:
            found.append(int(stat.name))
    return found


def read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(find: Callable[[], list[int]]) -> int:
    found: list[int] = []

    def look() -> bool:
        found.extend(find())
        return bool(found)

    wait_until(look)
    return found[0]


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.05)
