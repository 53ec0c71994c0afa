"""Runs another program with a limit of time; keeps the end of what it says, and leaves none of its processes behind."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

KEPT = 4096  # bytes of the end of what a program says
LOOK_SECONDS = 0.02  # between two looks at whether the program has ended
GONE_SECONDS = 5.0  # that killed processes have to disappear
SET_SUBREAPER = 36  # Linux's prctl: processes that have lost their parent become children of this process
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """`code` is the exit code, None where the program was stopped at the limit of time. `said` is the end of its
    standard output and error, as they came."""

    code: int | None
    said: str


def run_program(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run `command` without a shell, without input, in a session of its own. OSError when it cannot be started.

    The program is done when its own process ends; a process that it has left behind may still hold its output open.
    Then, at the limit of time and at an interruption, every process that it has started is killed: those of its
    session, and on Linux those that have left the session too. Other threads wait, and start no processes meanwhile.
    """
    with _one_at_a_time, _interruptions() as interrupted, _adopting() as descendants:
        process = subprocess.Popen(
            [os.fspath(word) for word in command], bufsize=0, cwd=cwd, start_new_session=True,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, said, in_time = process.stdout, b"", False
        assert output is not None, "it is a pipe"
        with output:
            try:
                os.set_blocking(output.fileno(), False)
                said, in_time = _listen(process, output, until=time.monotonic() + timeout, interrupted=interrupted)
            finally:
                _kill_all(process, descendants)
            said = (said + (output.read(2**20) or b""))[-KEPT:]  # no more than the pipe holds
        return Ended(process.returncode if in_time else None, said.decode(errors="replace").strip())


def _listen(
    process: subprocess.Popen[bytes], output: IO[bytes], *, until: float, interrupted: Callable[[], bool]
) -> tuple[bytes, bool]:
    """The end of what it says until its process ends (True) or its time is over (False). The process is not reaped:
    its number, which is that of its group, stays its own until the group is killed."""
    said, is_open = b"", True
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while not _has_ended(process):
            left = until - time.monotonic()
            if left <= 0 or interrupted():
                return said, False
            if not is_open:
                time.sleep(min(LOOK_SECONDS, left))
            elif selector.select(min(LOOK_SECONDS, left)):
                content = output.read(2**16)
                is_open = content != b""
                said = (said + (content or b""))[-KEPT:]
    return said, True


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
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


class _Descendants:
    """The processes below this one, but for `known` and those below them. On other systems than Linux: none."""

    def __init__(self, *, known: frozenset[int]) -> None:
        self.known = known

    def kill(self) -> int:
        """Kill them; how many of them were alive."""
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
        """Those that became our children when their parents had ended, and have ended since."""
        for number in _children(states="Z").get(os.getpid(), ()):
            if number not in self.known:
                with suppress(ChildProcessError):
                    os.waitpid(number, os.WNOHANG)


def _children(*, states: str = "RSDTtIKWP") -> dict[int, list[int]]:
    """Parent -> its children, of all processes in one of these states (proc(5)); by default all but zombies."""
    found: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # it has ended meanwhile
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state in states:
                found.setdefault(int(parent), []).append(int(folder.name))
    return found


@contextmanager
def _adopting() -> Iterator[_Descendants]:
    """Within, processes that have lost their parent become ours and are found, whatever session they are in."""
    if sys.platform != "linux":
        yield _Descendants(known=frozenset())
        return
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: -1)
    prctl(SET_SUBREAPER, 1, 0, 0, 0)
    try:
        known = [*_children().get(os.getpid(), ()), *_children(states="Z").get(os.getpid(), ())]
        yield _Descendants(known=frozenset(known))
    finally:
        prctl(SET_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT, SIGTERM and SIGHUP are only remembered, so that the program can be killed first: it is in a
    session of its own, where a terminal's Ctrl-C does not reach it. At the end each takes its usual course, and
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
