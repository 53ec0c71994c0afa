"""Runs another program with a time limit, keeps the end of its output, and leaves none of its processes behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

KEPT = 4096  # bytes from the end of a program's output
LOOK_SECONDS = 0.02  # between two checks whether the program has ended
GONE_SECONDS = 5.0  # how long killed processes may take to disappear
SET_SUBREAPER = 36  # Linux's prctl: orphaned descendants become children of this process
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """`code` is the exit code, None if the program was stopped at the time limit. `said` is the end of its standard
    output and error, interleaved."""

    code: int | None
    said: str


def run_program(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run `command` without a shell, without input, in a session of its own. OSError if it cannot be started.

    The program is done when its own process ends, even if a process it left behind still holds its output open. Then,
    or at the time limit (seconds) or an interruption, every process it started is killed: its session, and on Linux
    also processes that have left the session. Only one program runs at a time; other threads wait.

    Example::

        run_program(["ffmpeg", "-version"], timeout=10.0).code  # 0
    """
    with _one_at_a_time, _interruptions() as interrupted, _adopting() as descendants:
        process = subprocess.Popen(
            [os.fspath(word) for word in command], bufsize=0, cwd=cwd, start_new_session=True,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None, "it is a pipe"
        kept = bytearray()
        reader = threading.Thread(target=_keep_end, args=(process.stdout, kept), daemon=True)
        reader.start()
        until = time.monotonic() + timeout
        try:
            while not (in_time := _has_ended(process)) and time.monotonic() < until and not interrupted():
                time.sleep(LOOK_SECONDS)
        finally:
            _kill_all(process, descendants)
            reader.join(GONE_SECONDS)
        return Ended(process.returncode if in_time else None, kept.decode(errors="replace").strip())


def _keep_end(output: IO[bytes], kept: bytearray) -> None:
    """Read a program's output until its last process ends; `kept` holds the last bytes."""
    with output:
        while content := output.read(2**16):
            kept[:] = (kept + content)[-KEPT:]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended. It is not reaped, so that its number, which is also its group's, cannot be reused before
    the group is killed."""
    if not hasattr(os, "waitid"):  # macOS: this reaps it
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _kill_all(process: subprocess.Popen[bytes], descendants: _Descendants) -> None:
    until = time.monotonic() + GONE_SECONDS
    while True:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        alive = descendants.kill()
        if (_has_ended(process) and not alive) or time.monotonic() > until:
            break
        time.sleep(LOOK_SECONDS / 4)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GONE_SECONDS)
    descendants.reap()


@dataclass(frozen=True)
class _Descendants:
    """The descendants of this process, except `known` ones and their descendants. Finds none outside Linux."""

    known: frozenset[int]

    def kill(self) -> int:
        """Kill them and return how many were alive."""
        children, alive = _children(), 0
        waiting = [number for number in children.get(os.getpid(), ()) if number not in self.known]
        while waiting:
            number = waiting.pop()
            waiting += children.get(number, ())
            alive += 1
            with suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        return alive

    def reap(self) -> None:
        """Reap the ended ones that became our children when their parents ended."""
        for number in _children(states="Z").get(os.getpid(), ()):
            if number not in self.known:
                with suppress(ChildProcessError):
                    os.waitpid(number, os.WNOHANG)


def _children(*, states: str = "RSDTtIKWP") -> dict[int, list[int]]:
    """Parent -> its children, for all processes in one of these states (proc(5)); by default all except zombies."""
    found: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # the process ended meanwhile
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state in states:
                found.setdefault(int(parent), []).append(int(folder.name))
    return found


@contextmanager
def _adopting() -> Iterator[_Descendants]:
    """While it is open, orphaned descendants become children of this process and are found, whatever their session."""
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: -1)
    prctl(SET_SUBREAPER, 1, 0, 0, 0)
    try:
        known = [*_children().get(os.getpid(), ()), *_children(states="Z").get(os.getpid(), ())]
        yield _Descendants(frozenset(known))
    finally:
        prctl(SET_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """While it is open, SIGINT, SIGTERM and SIGHUP are only recorded, so that the program can be killed first: it has a
    session of its own, which a terminal's Ctrl-C does not reach. On leaving, each signal is handled as usual and
    KeyboardInterrupt is raised. Outside the main thread, where Python allows no handlers, nothing changes."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, None)
        else:
            os.kill(os.getpid(), number)
    if came:
        raise KeyboardInterrupt
