"""Parts of a build at once, some twice, some killed, some beside the whole build: one right cache comes of it."""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest
from scene import EITHER_STORAGE, Tally, scene
from zygote import Ended

PARTS = 3


def crowds(storage: str, *, trials: int, seed: int) -> Tally:
    """All parts start together; each may be killed, or started twice, of which one is refused; the whole build may run
    beside them. The whole build afterwards makes the undisturbed cache."""
    here, dice, tally = scene(), random.Random(seed), Tally("parts at once", storage)
    for _ in range(trials):
        with here.place() as out:
            crowd = list[dict[str, Any]]()
            for number in range(1, PARTS + 1):
                crowd += [_faults(dice, here.quiet[storage].seconds, part=f"{number}/{PARTS}")] * dice.choice([1, 1, 2])
            crowd += [_faults(dice, here.quiet[storage].seconds)] * dice.choice([0, 1, 2])
            ended = here.zygote.run([here.builder(out, storage, **faults) for faults in crowd])
            problems = [f"{one.code}: {one.error}" for one in ended if one.code and not _is_expected(one)]
            problems += here.torn(out, storage)
            tally.noticed += any("is running" in one.error for one in ended)
            tally.note(problems + here.problems_after_resuming(out, storage), trial=crowd)
    return tally


def _is_expected(ended: Ended) -> bool:
    return ended.code == -signal.SIGKILL or (ended.code == 2 and "a build is running in this folder" in ended.error)


def _faults(dice: random.Random, seconds: float, part: str | None = None) -> dict[str, Any]:
    moment = dice.uniform(0.0, 2 * seconds)
    return dice.choice([{"part": part}, {"part": part, "kill_after": moment}])


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_parts_at_once_make_one_cache(storage: str) -> None:
    tally = crowds(storage, trials=4, seed=0)
    assert (tally.wrong, tally.recovered) == ([], 4)
    assert tally.noticed > 0
