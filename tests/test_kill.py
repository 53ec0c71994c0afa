"""Builds that are killed in the middle: the same command again makes the cache that a quiet build makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reencoder_pipeline.cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.verify import verify_cache
from tiny_build import build, leftovers, tree

BUILD = (
    "import sys; from pathlib import Path; from tiny_build import build\n"
    "if __name__ == '__main__': build(Path(sys.argv[1]), Path(sys.argv[2]), 'tiny_build:load_slow', workers=2)\n"
)


@pytest.mark.parametrize("shards_before", [0, 2])
def test_kill_9_of_everything_and_again(
    music: Path,
    tiny_autoencoder: Path,
    built: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shards_before: int,
) -> None:
    out = tmp_path / "cache"
    process = _start(music, out, tiny_autoencoder, tmp_path)
    _wait_for_shards(out, shards_before, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(CacheError, match="not complete"):
        open_cache(out)
    monkeypatch.setenv("TINY_AUTOENCODER", str(tiny_autoencoder))
    result = build(music, out, "tiny_build:load_slow", workers=2)
    assert result.kept >= shards_before  # what was committed is not made again
    quiet = built("zarr")
    assert open_cache(out).digest == open_cache(quiet).digest
    assert {name: data for name, data in tree(out).items() if name.startswith("shards/")} == {
        name: data for name, data in tree(quiet).items() if name.startswith("shards/")
    }
    assert leftovers(out) == []
    assert verify_cache(open_cache(out)) == []


def test_workers_end_soon_after_their_build_was_killed(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    process = _start(music, out, tiny_autoencoder, tmp_path)
    _wait_for_shards(out, 1, process)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone
    process.wait()
    deadline = time.monotonic() + 15
    while _group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _group_lives(process.pid)


def _start(music: Path, out: Path, tiny_autoencoder: Path, folder: Path) -> subprocess.Popen[bytes]:
    script = folder / "build_slowly.py"
    script.write_text(BUILD)
    environment = {
        **os.environ,
        "TINY_AUTOENCODER": str(tiny_autoencoder),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    return subprocess.Popen([sys.executable, script, music, out], env=environment, start_new_session=True)


def _wait_for_shards(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until `count` shards are committed and the next are being made."""
    deadline = time.monotonic() + 120
    while len(list(out.glob("shards/*.json"))) < count or not (out / "settings.json").exists():
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline, "the build does not get on"
        time.sleep(0.02)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
