"""A process that has imported everything and forks builds in milliseconds: to be killed, or to meet a fault.

`Zygote().run([...])` is used by tests; `python zygote.py` is the process itself, which never starts a thread.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

FILE_EVENTS = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
TAKE_SPACE = {"open", "os.mkdir", "os.link"}
CHANGED = "7.wav"


@dataclass(frozen=True)
class Builder:
    """One `build_cache` to be run; times in seconds after the start.

    At its operation number `at` on files below `out` (opening one to write, renaming, linking, removing, making a
    folder) comes the `fault`: "kill" (by SIGKILL), "tear" (by SIGKILL in the middle of writing), "full" (no space from
    then on), "vanish" (the source is moved away), "change" (the source's file CHANGED gets other content). `part`: of
    the build, such as "1/3".
    """

    source: str
    out: str
    storage: str
    fault: str = ""
    at: int = 0
    kill_after: float | None = None
    part: str | None = None


@dataclass(frozen=True)
class Ended:
    """How it ended: `code` 0, -9 for a kill, 2 for a ReencoderError, 1 for any other, with its text in `error`."""

    code: int
    seconds: float = 0.0
    operations: int = 0
    built: int = 0
    kept: int = 0
    failures: int = 0
    error: str = ""


class Zygote:
    """Ends with this process, or by `close`."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, builders: Sequence[Builder]) -> list[Ended]:
        """Start them together; return when all have ended."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([asdict(builder) for builder in builders]) + "\n")
        self._process.stdin.flush()
        return [Ended(**values) for values in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        builders = [Builder(**values) for values in json.loads(line)]
        print(json.dumps(_run(builders)), flush=True)


def _run(builders: Sequence[Builder]) -> list[dict[str, Any]]:
    start, children, kills = time.monotonic(), [], []
    for builder in builders:
        child, pipe = _fork(builder)
        children.append((child, pipe))
        if builder.kill_after is not None:
            kills.append((builder.kill_after, child))
    for when, child in sorted(kills):
        time.sleep(max(0.0, start + when - time.monotonic()))
        os.kill(child, signal.SIGKILL)  # no process has waited for it yet, so that its number is its own
    return [_wait(child, pipe) for child, pipe in children]


def _fork(builder: Builder) -> tuple[int, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        _build(builder, writing)
    os.close(writing)
    return child, reading


def _wait(child: int, pipe: int) -> dict[str, Any]:
    with os.fdopen(pipe, "rb") as file:
        content = file.read()
    _, status = os.waitpid(child, 0)
    values = json.loads(content or b"{}")
    for name in values.pop("modules", ()):  # the next child need not import them
        with suppress(Exception):
            importlib.import_module(name)
    return {**values, "code": os.waitstatus_to_exitcode(status)}


def _build(builder: Builder, pipe: int) -> NoReturn:
    from reencoder_pipeline.errors import ReencoderError

    start, before, code = time.monotonic(), set(sys.modules), 0
    values: dict[str, Any] = {}
    operations = _watched_operations(builder)
    try:
        values = _results(builder)
    except ReencoderError as error:
        code, values = 2, {"error": str(error)}
    except BaseException as error:
        code, values = 1, {"error": repr(error)}
    values |= {"seconds": time.monotonic() - start, "operations": next(operations) - 1}
    values["modules"] = sorted(name for name in set(sys.modules) - before if name != "__main__")
    with os.fdopen(pipe, "wb") as file:
        file.write(json.dumps(values).encode())
    os._exit(code)


def _results(builder: Builder) -> dict[str, Any]:
    from tiny_build import build

    place = Path(builder.source), Path(builder.out)
    result = build(*place, "projection:load", part=builder.part, format=builder.storage)
    return {"built": result.built, "kept": result.kept, "failures": len(result.failures)}


def _watched_operations(builder: Builder) -> itertools.count[int]:
    """Every operation on a file below `out`, counted from 1 on; the fault comes before number `at`."""
    numbers = itertools.count(1)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in FILE_EVENTS:
            return
        if not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if Path(path).is_absolute() and not path.startswith(builder.out):
            return
        number = next(numbers)
        if builder.fault == "full" and number >= builder.at and event in TAKE_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if number == builder.at:
            if event == "open" and builder.fault == "tear":
                Path(path).write_bytes(b"torn")
            _strike(builder)

    sys.addaudithook(watch)
    return numbers


def _strike(builder: Builder) -> None:
    source = Path(builder.source)
    if builder.fault in ("kill", "tear"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif builder.fault == "vanish":
        source.rename(f"{source}.away")
    elif builder.fault == "change":
        changed = source / CHANGED
        changed.write_bytes(changed.read_bytes()[:-4] + b"\x01\x00\x01\x00")


if __name__ == "__main__":
    main()
