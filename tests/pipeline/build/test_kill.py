"""Builds that are killed in the middle: the same command again makes the cache that a quiet build makes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import program_line, search_path
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.shards.record import parse_record
from tiny_build import Built, build, leftovers, tiny_config, tree

BUILD = (
    "import sys; from pathlib import Path; from tiny_build import build\n"
    "if __name__ == '__main__': build(Path(sys.argv[1]), Path(sys.argv[2]), 'tiny_build:load_slow', workers=2)\n"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]
PATIENCE = 300.0  # seconds; for machines that are busy with something else


def test_kill_9_again_and_again_and_then_to_the_end(
    music: Path, tiny_autoencoder: Path, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is killed at a random moment after some shards, or within a write; the next goes on from there."""
    out, quiet = tmp_path / "cache", built("zarr")
    moments = random.Random(0)
    for shards_before, within_a_write in ((0, False), (1, True), (3, False)):
        process = start(music, out, tiny_autoencoder, tmp_path)
        wait_for_shards(out, shards_before, process)
        if within_a_write:
            wait_until(lambda: any(out.glob("shards/*.partial/zarr.json")), process)
        else:
            time.sleep(moments.uniform(0.0, 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_for_the_end_of(process.pid)
        with pytest.raises(CacheError, match="not complete"):
            open_cache(out)
        assert_nothing_is_torn(out, quiet)

    committed = len(list(out.glob("shards/*.json")))
    monkeypatch.setenv("TINY_AUTOENCODER", str(tiny_autoencoder))
    result = build(music, out, "tiny_build:load_slow", workers=2)
    assert result.kept == committed >= 3  # what was committed is not made again
    assert open_cache(out).digest == open_cache(quiet).digest
    assert tree(out) == tree(quiet)
    assert leftovers(out) == []
    assert verify_cache(open_cache(out)) == []


def test_workers_end_soon_after_their_build_was_killed(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    process = start(music, out, tiny_autoencoder, tmp_path)
    wait_for_shards(out, 1, process)
    assert len(processes_of(process.pid)) >= 3  # the build, and two workers
    os.kill(process.pid, signal.SIGKILL)  # the parent alone
    process.wait()
    wait_for_the_end_of(process.pid)
    assert not (out / "index.json").exists()  # the workers did not finish the build on their own


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_and_ctrl_c_end_the_command_in_order(
    workers: int, music: Path, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    """Exit 130 with the line that resumes; finished shards stay, and nothing half-written does."""
    out, settings = tmp_path / "cache", tmp_path / "cache.yaml"
    config = tiny_config("tiny_build:load_slow", workers=workers)
    settings.write_text(json.dumps(config.model_dump()))
    line = program_line("reencoder-cache", "build", music, "--out", out, "--config", settings)
    environment = {**os.environ, "TINY_AUTOENCODER": str(tiny_autoencoder), "PYTHONPATH": search_path()}
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_shards(out, 1, process)
    process.send_signal(signal.SIGTERM if workers == 1 else signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert f"this command continues: reencoder-cache build {music} --out {out}" in said
    assert "Traceback" not in said
    wait_for_the_end_of(process.pid)
    assert sorted(path.name for path in out.iterdir()) == ["settings.json", "shards"]
    assert build(music, out, tiny_autoencoder).kept >= 1
    assert leftovers(out) == []


def assert_nothing_is_torn(out: Path, quiet: Path) -> None:
    """Whatever lies at its final place is whole: the same bytes as in the cache of a quiet build."""
    whole = tree(quiet)
    final = {name: content for name, content in tree(out).items() if ".partial" not in name}
    assert all(content == whole[name] for name, content in final.items())
    for record in out.glob("shards/*.json"):
        parsed = parse_record(record.read_bytes())
        assert parsed is not None
        assert all((out / name).stat().st_size == size for name, (size, _) in parsed.shard.files.items())


def start(music: Path, out: Path, tiny_autoencoder: Path, folder: Path) -> subprocess.Popen[bytes]:
    script = folder / "build_slowly.py"
    script.write_text(BUILD)
    environment = {
        **os.environ,
        "TINY_AUTOENCODER": str(tiny_autoencoder),
        "PYTHONPATH": str(Path(__file__).parents[2] / "support"),
    }
    return subprocess.Popen([sys.executable, script, music, out], env=environment, start_new_session=True)


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[Any]) -> None:
    """Until `count` shards are committed and the next are being made."""
    wait_until(lambda: len(list(out.glob("shards/*.json"))) >= count and (out / "settings.json").exists(), process)


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline, "the build does not get on"
        time.sleep(0.02)


def wait_for_the_end_of(group: int) -> None:
    deadline = time.monotonic() + 15
    while processes_of(group):
        assert time.monotonic() < deadline, "workers go on alone"
        time.sleep(0.05)


def processes_of(group: int) -> list[str]:
    """The process ids of a process group, without those that have ended and wait for their parent to notice."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(stat.parent.name)
    return found
