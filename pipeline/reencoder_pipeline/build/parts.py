"""Parts of a build for job arrays: each makes its own share of the planned shards and talks to no other."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.shards.job import Job


@dataclass(frozen=True)
class Part:
    """Part `number`, counted from 1, of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_part(text: str) -> Part:
    """The part that a command line names. ConfigError unless it reads like 3/16.

    Example::

        parse_part("3/16")  # Part(number=3, count=16)
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            "a part reads NUMBER/COUNT, with a number from 1 to COUNT", where="--part", value=text,
            remedy="give for example --part 3/16",
        )  # fmt: skip
    return Part(int(match[1]), int(match[2]))


def jobs_of(jobs: Sequence[Job], part: Part) -> list[Job]:
    """The shards of one part. They depend on the plan alone: largest first, each shard goes to the part that has the
    fewest frames so far."""
    loads, chosen = [(0, number) for number in range(1, part.count + 1)], []
    for job in sorted(jobs, key=lambda job: (-job.num_frames, job.key)):
        frames, number = heapq.heappop(loads)
        heapq.heappush(loads, (frames + job.num_frames, number))
        if number == part.number:
            chosen.append(job)
    return chosen
