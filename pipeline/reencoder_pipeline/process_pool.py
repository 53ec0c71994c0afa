"""Makes pools of spawned processes that end when the process that started them has ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def spawned_pool(workers: int | None, start: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """A pool of `workers` processes (None: one a core), each of which first calls `start(*arguments)`."""
    initargs = (os.getpid(), start, arguments)
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=initargs)


def _begin(parent: int, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: nothing else would ever stop it after a kill."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
