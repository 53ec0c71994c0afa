"""A full disk, at any operation and at any size: a clear error, nothing torn, and the build resumes."""

from __future__ import annotations

import os
import random
import subprocess

import pytest
from scene import EITHER_STORAGE, Tally, scene


def full_at_operations(storage: str, *, trials: int, seed: int, part: str | None = None) -> Tally:
    """Whatever the build, or a part of it, does next that takes space fails, from a random operation on."""
    here, dice = scene(), random.Random(seed)
    tally = Tally(f"disk full (injected){', a part' if part else ''}", storage)
    while tally.trials < trials:
        with here.place() as out:
            at = dice.randint(1, here.quiet[storage].operations)
            ended = here.build(out, storage, part=part, fault="full", at=at)
            if ended.code == 0:
                continue  # nothing that takes space came after it
            problems = [] if ended.code == 2 and "the disk is full" in ended.error else [f"error: {ended}"]
            tally.noticed += not problems
            problems += here.torn(out, storage) if out.exists() else []
            tally.note(problems + here.problems_after_resuming(out, storage), trial=f"operation {at}")
    return tally


def full_small_disks(storage: str, *, trials: int, seed: int) -> Tally:
    """Real ones of random sizes; no trials where they cannot be mounted."""
    here, dice, tally = scene(), random.Random(seed), Tally("disk full (small tmpfs)", storage)
    needed = sum(-(-len(part) // 4096) for part in here.whole[storage].values())  # pages
    while os.getuid() == 0 and tally.trials < trials:
        with here.place() as disk:
            disk.mkdir()
            size = dice.randint(4, needed) * 4096
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
            if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
                break
            try:
                ended = here.build(disk / "cache", storage)
                if ended.code == 0:
                    continue
                problems = [] if ended.code == 2 and "the disk is full" in ended.error else [f"error: {ended}"]
                tally.noticed += not problems
                problems += here.torn(disk / "cache", storage)
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                tally.note(problems + here.problems_after_resuming(disk / "cache", storage), trial=f"{size} bytes")
            finally:
                subprocess.run(["umount", "-l", str(disk)], check=True)
    return tally


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_a_disk_that_becomes_full_at_any_operation(storage: str) -> None:
    tally = full_at_operations(storage, trials=3, seed=0)
    assert (tally.wrong, tally.noticed, tally.recovered) == ([], 3, 3)


def test_a_disk_that_becomes_full_while_a_part_is_made() -> None:
    tally = full_at_operations("zarr", trials=3, seed=0, part="2/2")
    assert (tally.wrong, tally.noticed, tally.recovered) == ([], 3, 3)


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_small_disks(storage: str) -> None:
    tally = full_small_disks(storage, trials=3, seed=0)
    if tally.trials == 0:
        pytest.skip("only root can mount a small disk")
    assert (tally.wrong, tally.noticed, tally.recovered) == ([], 3, 3)
