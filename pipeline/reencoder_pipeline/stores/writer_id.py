"""Names this process (machine, id, start), so that a file that an ended process left half-written is recognised."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import lru_cache
from pathlib import Path


def owner() -> str:
    """This process: <machine>-<process id>-<when it started>. In names of files that only it writes, and in locks."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}"


def is_of_this_machine(name: str) -> bool:
    return name.startswith(f"{_machine()}-")


def has_ended(name: str) -> bool:
    """True only where it is certain: the process ran on this machine and is no more. For a process of another machine
    it is False."""
    machine, _, rest = name.partition("-")
    pid, _, started = rest.partition("-")
    return machine == _machine() and pid.isdecimal() and _started(int(pid)) != started


@lru_cache(maxsize=1)
def _machine() -> str:
    """The same for all processes that see each other: a container, or a boot of the same host, is another machine."""
    about = [socket.gethostname()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists():
        about += [boot.read_text(), str(namespace.readlink())]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:8]


def _started(pid: int) -> str | None:
    """When a process started, in ticks of the kernel, so that a process id that is given again is noticed."""
    try:
        # The command between brackets may hold anything, also brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "0"
