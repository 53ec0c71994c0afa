"""Times rows in turns, block by block, so that other load on the machine affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from reencoder_trainer.training.stopwatch import PHASES

NAMES = (*PHASES, "rest")
MAX_STEPS = 1000  # of a block


@dataclass(frozen=True)
class Timing:
    """Seconds of one step; `phases` holds its seconds by phase, where it was split."""

    step: float
    phases: Mapping[str, float] = field(default_factory=dict)

    def share(self, *names: str) -> float:
        return sum(self.phases[name] for name in names) / self.step


@dataclass(frozen=True)
class Plan:
    """The number of rounds, and the length of a block: `steps`, or as many as fit into `seconds` but at least 2."""

    seconds: float
    rounds: int
    steps: int | None


Block = Callable[[int], Timing]
"""Runs and times that many steps, after a warm-up."""


def interleaved(rows: Mapping[str, Block], plan: Plan) -> dict[str, list[Timing]]:
    """The timings of every row, one per round; the rows take turns within a round."""
    lengths = {name: plan.steps or planned(plan.seconds, block(1).step) for name, block in rows.items()}
    timings: dict[str, list[Timing]] = {name: [] for name in rows}
    for _ in range(plan.rounds):
        for name, block in rows.items():
            timings[name].append(block(lengths[name]))
    return timings


def planned(seconds: float, step: float) -> int:
    return min(MAX_STEPS, max(2, round(seconds / max(step, 1e-6))))


def middle(timings: Sequence[Timing]) -> Timing:
    """Median step, and the median share of every phase of it."""
    step = median(timing.step for timing in timings)
    return Timing(step, {name: step * median(one.share(name) for one in timings) for name in timings[0].phases})


def ratio(timings: Sequence[Timing], references: Sequence[Timing]) -> float:
    """Median over rounds of step over step: both were measured within seconds of each other."""
    return median(one.step / other.step for one, other in zip(timings, references, strict=True))


def clocked(step: Callable[[], object], *, device: torch.device) -> Block:
    """A block of plain calls."""

    def block(steps: int) -> Timing:
        for count in (1, steps):  # one to warm up
            _wait(device)
            started = time.perf_counter()
            for _ in range(count):
                step()
            _wait(device)
        return Timing((time.perf_counter() - started) / steps)

    return block


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
