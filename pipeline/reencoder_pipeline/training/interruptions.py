"""SIGINT and SIGTERM, remembered: a training ends after its step, an application after its segment, both whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM are only remembered: the yielded function says whether one came.

    The second one interrupts at once. Outside the main thread, where Python allows no handlers, nothing changes.
    """
    came = False

    def remember(number: int, frame: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
