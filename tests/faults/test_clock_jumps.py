"""Clocks that jump by years, and files from the future and the past: nothing is lost, nothing waits for ever."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from scene import ELSEWHERE, STORAGES, Tally, scene
from zygote import YEARS


def jumps(storage: str, *, trials: int, seed: int) -> Tally:
    """A build with a jumping clock is killed, all its files get times at random, and another resumes with its own.

    Half of the first take themselves to be on another machine: their claims are judged by time alone.
    """
    here, dice, tally = scene(), random.Random(seed), Tally("clock jumps", storage)
    while tally.trials < trials:
        with here.place() as out:
            at = dice.randint(3, here.quiet[storage].operations)  # 1 and 2 write the claim of the build itself
            machine = dice.choice(["", ELSEWHERE])
            first = here.build(out, storage, fault="kill", at=at, machine=machine, lease=0.5, clock=dice.random())
            second = here.build(out, storage, clock=dice.random(), lease=0.5) if spread(out, dice) else first
            problems = [second.error] if second.code else here.torn(out, storage)
            problems += [] if (out / "index.json").exists() else ["no index"]
            here.build(out, storage, machine=ELSEWHERE)  # sweeps what that machine left
            tally.note(
                problems + here.problems_after_resuming(out, storage), trial=f"operation {at}, ended {first.code}"
            )
    return tally


def spread(folder: Path, dice: random.Random) -> int:
    """Give every file and folder a time of its own; how many there are."""
    paths = list(folder.rglob("*"))
    for path in paths:
        moment = time.time() + dice.uniform(-YEARS, YEARS)
        os.utime(path, (moment, moment))
    return len(paths)


@pytest.mark.parametrize("storage", STORAGES)
def test_jumping_clocks_change_nothing(storage: str) -> None:
    tally = jumps(storage, trials=3, seed=0)
    assert (tally.wrong, tally.recovered) == ([], 3)
