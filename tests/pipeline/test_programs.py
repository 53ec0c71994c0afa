"""Other programs: the end of what they say is kept, and nothing that they started outlives them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from reencoder_pipeline.programs import KEPT, run_program

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked for in /proc")


def alive(mark: str) -> list[str]:
    """Command lines of living processes that hold `mark`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark in command and state != "Z" and int(folder.name) != os.getpid():
            found.append(command)
    return found


def zombies() -> list[str]:
    """Children of this process that have ended and were not waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[:2] == ["Z", str(os.getpid())]:
                found.append(path.parent.name)
    return found


@pytest.fixture
def mark() -> str:
    """A number of seconds to sleep, by which sleepers are found."""
    return f"9{os.getpid():06d}{time.monotonic_ns() % 1000:03d}"


def test_code_and_last_words() -> None:
    done = run_program(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=20)
    assert (done.code, sorted(done.said.split())) == (3, ["err", "out"])
    assert run_program([sys.executable, "-c", "pass"], timeout=20).code == 0
    assert run_program(["sh", "-c", "kill -9 $$"], timeout=20).code == -signal.SIGKILL
    with pytest.raises(FileNotFoundError):
        run_program(["/no/such/program"], timeout=20)


def test_folder_environment_and_no_input(tmp_path: Path) -> None:
    done = run_program(
        ["sh", "-c", "pwd; echo $MINE; cat"], timeout=20, cwd=tmp_path, environment={**os.environ, "MINE": "7"}
    )
    assert done.said.split() == [str(tmp_path.resolve()), "7"]


@pytest.mark.parametrize("command", ["yes", "yes >&2"])
def test_endless_output_is_not_kept(command: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = run_program(["sh", "-c", command], timeout=1)
    assert done.code is None
    assert 0 < len(done.said) <= KEPT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "in kB"


@needs_proc
@pytest.mark.parametrize(
    "left",
    [
        "sleep {mark} &",
        "(sleep {mark} &) ; (sleep {mark} & sleep {mark}) &",
        "setsid sleep {mark} & setsid sh -c 'sleep {mark} & sleep {mark}' >/dev/null 2>&1 &",
        "setsid env -i sh -c '(setsid sleep {mark} &)' &",
        "trap '' TERM HUP; nohup sleep {mark} >/dev/null 2>&1 &",
    ],
)
@pytest.mark.parametrize("ends", [True, False])
def test_nothing_that_it_started_outlives_it(left: str, ends: bool, mark: str) -> None:
    """Whether it ends by itself, with others that hold its output open, or at the limit of time."""
    began = time.monotonic()
    done = run_program(["sh", "-c", left.format(mark=mark) + (" sleep 0.3" if ends else f" sleep {mark}")], timeout=1)
    assert done.code == (0 if ends else None)
    assert time.monotonic() - began < 8
    assert alive(mark) == []


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_kills_it_too(number: signal.Signals, mark: str) -> None:
    came: list[int] = []

    def remember(number: int, frame: object) -> None:
        came.append(number)

    before = signal.signal(number, remember)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_program(["sh", "-c", f"kill -{number.value} {os.getpid()}; sleep {mark}"], timeout=20)
        assert came == [number], "what the caller does at it is done as well"
        assert signal.getsignal(number) is remember
    finally:
        signal.signal(number, before)
    assert alive(mark) == []


@needs_proc
def test_no_zombies_are_left() -> None:
    before = zombies()
    run_program(["sh", "-c", "(sleep 0.01 &); (setsid sleep 0.01 &); (sleep 30 &); sleep 0.3"], timeout=10)
    assert zombies() == before


@needs_proc
def test_children_of_before_are_left_alone(mark: str) -> None:
    own = subprocess.Popen(["sleep", mark])
    try:
        run_program(["sh", "-c", "sleep 30 & exit 0"], timeout=5)
        assert own.poll() is None
    finally:
        own.kill()
        own.wait()
