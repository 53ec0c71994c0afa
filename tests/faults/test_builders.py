"""Several builders at once, of which some are killed, and some stand still until others have taken over from them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scene import ELSEWHERE, STORAGES, Tally, scene

LEASE = 0.5  # seconds: shorter than a build, so that those that stand still lose their claims


def crowds(storage: str, *, trials: int, seed: int) -> Tally:
    """Two or three, on one machine or on two. Whoever is left makes the undisturbed cache; if all are killed, the same
    command does."""
    here, dice, tally = scene(), random.Random(seed), Tally("builders at once", storage)
    for _ in range(trials):
        with here.place() as out:
            crowd = [_faults(dice, here.quiet[storage].seconds) for _ in range(dice.choice([2, 2, 3]))]
            ended = here.zygote.run([here.builder(out, storage, lease=LEASE, **faults) for faults in crowd])
            problems = [f"{one.code}: {one.error}" for one in ended if one.code not in (0, -9)]
            problems += here.torn(out, storage)
            if all(one.code == 0 for one in ended):
                problems += here.differences(out, storage)
            here.build(out, storage, lease=LEASE, machine=ELSEWHERE)  # sweeps what that machine left
            tally.note(problems + here.problems_after_resuming(out, storage), trial=crowd)
    return tally


def _faults(dice: random.Random, seconds: float) -> dict[str, Any]:
    moment, machine = dice.uniform(0.0, 2 * seconds), dice.choice(["", ELSEWHERE])
    return dice.choice([
        {"machine": machine},
        {"machine": machine, "kill_after": moment},
        {"machine": machine, "stop_after": moment, "stop_for": 3 * LEASE},
    ])  # fmt: skip


@pytest.mark.parametrize("storage", STORAGES)
def test_builders_at_once_make_one_cache(storage: str) -> None:
    tally = crowds(storage, trials=2, seed=0)
    assert (tally.wrong, tally.recovered) == ([], 2)
