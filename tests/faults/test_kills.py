"""kill -9 at random moments, at random operations on files and within them: the same command makes the same cache."""

from __future__ import annotations

import random
import signal
from itertools import count
from typing import Literal

import pytest
from scene import EITHER_STORAGE, Tally, scene

By = Literal["time", "operation", "last operations"]


def killed(storage: str, *, trials: int, seed: int, by: By, part: str | None = None) -> Tally:
    """Every third or so is killed again while it resumes. Builds that end before their moment do not count. With
    `part`, that part is killed; the whole build then completes the cache.

    The last operations, which complete the cache, one after the other, each in the middle of writing.
    """
    here, dice, tally = scene(), random.Random(seed), Tally(f"kill -9 by {by}{', a part' if part else ''}", storage)
    quiet = here.quiet[storage]
    for backwards in count():
        if tally.trials == trials:
            break
        with here.place() as out:
            problems, kills = list[str](), 0
            while not kills or dice.random() < 0.3:
                if by == "time":
                    ended = here.build(out, storage, part=part, kill_after=dice.uniform(0.0, quiet.seconds))
                elif by == "last operations":
                    ended = here.build(out, storage, fault="tear", at=quiet.operations - backwards)
                else:
                    fault = dice.choice(["kill", "tear"])
                    ended = here.build(out, storage, part=part, fault=fault, at=dice.randint(1, quiet.operations))
                problems += here.torn(out, storage)
                if ended.code != -signal.SIGKILL:
                    problems += [ended.error] if ended.code else []
                    break
                kills += 1
            if not kills and not problems:
                continue
            committed = len(list(out.glob("shards/*.json")))
            resumed = here.build(out, storage)
            if resumed.kept != committed:
                problems.append(f"{committed} shards were committed, {resumed.kept} kept; {resumed.error}")
            tally.note(problems + here.differences(out, storage), trial=f"kill {tally.trials}")
    return tally


@pytest.mark.parametrize("by", ["time", "operation"])
@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_a_killed_build_resumes_to_the_undisturbed_cache(storage: str, by: By) -> None:
    tally = killed(storage, trials=3, seed=0, by=by)
    assert (tally.wrong, tally.recovered) == ([], 3)


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_a_killed_part_is_completed_by_the_whole_build(storage: str) -> None:
    tally = killed(storage, trials=4, seed=0, by="operation", part="1/2")
    assert (tally.wrong, tally.recovered) == ([], 4)


def test_a_build_that_is_killed_while_it_completes_the_cache() -> None:
    tally = killed("webdataset", trials=10, seed=0, by="last operations")
    assert (tally.wrong, tally.recovered) == ([], 10)
