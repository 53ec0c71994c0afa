"""Where the time of a step goes: data, compute, optimiser, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["data", "compute", "optimizer"]
PHASES: tuple[Phase, ...] = ("data", "compute", "optimizer")


class Stopwatch:
    """Adds up seconds by phase; whatever is in no phase is the rest (journal, validation, checkpoints, Python).

    On CUDA the work runs behind the calls; a phase then ends where the host waits, which is once in a step.
    """

    def __init__(self) -> None:
        self._seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def shares(self) -> dict[str, float]:
        """Shares of the time since the last call: {"data_share", "compute_share", "optimizer_share", "rest_share"}."""
        now = time.perf_counter()
        total = max(now - self._since, 1e-9)
        shares = {f"{name}_share": seconds / total for name, seconds in self._seconds.items()}
        shares["rest_share"] = max(0.0, 1.0 - sum(shares.values()))
        self._seconds, self._since = dict.fromkeys(PHASES, 0.0), now
        return {name: round(share, 5) for name, share in shares.items()}
