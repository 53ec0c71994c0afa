"""A source that vanishes or changes in the middle of a build, comes back, or cannot be written to."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from scene import EITHER_STORAGE, Tally, content, scene
from zygote import CHANGED


def disturbed(storage: str, *, trials: int, seed: int, fault: Literal["vanish", "change"]) -> Tally:
    """At a random operation; then it is as it was, and the same command runs again."""
    here, dice, tally = scene(), random.Random(seed), Tally(f"source {fault.removesuffix('e')}ed", storage)
    changed = here.source / CHANGED
    before, away = changed.read_bytes(), Path(f"{here.source}.away")
    for _ in range(trials):
        with here.place() as out:
            at = dice.randint(1, here.quiet[storage].operations)
            ended = here.build(out, storage, fault=fault, at=at)
            if away.exists():
                away.rename(here.source)
            changed.write_bytes(before)
            problems = [] if ended.code in (0, 2) else [f"error: {ended}"]
            # Complete only if nothing was missing: a track that was not there is a failure, and is tried again.
            if ended.code == 0 and ended.failures == here.quiet[storage].failures and fault == "vanish":
                problems += here.differences(out, storage)
            tally.noticed += ended.code == 2 or ended.failures > here.quiet[storage].failures
            tally.note(problems + here.problems_after_resuming(out, storage), trial=f"operation {at}")
    return tally


@pytest.mark.parametrize("fault", ["vanish", "change"])
@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_a_disturbed_source_is_tried_again(storage: str, fault: Literal["vanish", "change"]) -> None:
    tally = disturbed(storage, trials=3, seed=0, fault=fault)
    assert (tally.wrong, tally.recovered) == ([], 3)
    assert tally.noticed > 0


def test_a_source_that_is_gone_leaves_the_cache_alone() -> None:
    with scene().copy("zarr") as out:
        ended = scene().zygote.run([scene().builder(out, "zarr", source=f"{scene().source}.gone")])[0]
        assert (ended.code, scene().differences(out, "zarr")) == (2, [])


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Root may write anywhere, but for what is mounted read-only."""
    if os.getuid() == 0:
        if subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode != 0:
            pytest.skip("root without the right to mount")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_a_read_only_source_is_enough() -> None:
    here = scene()
    with here.place() as out, read_only(here.source):
        with pytest.raises(OSError, match=r"Read-only|Permission"):
            (here.source / "new.wav").write_bytes(b"")
        before = content(here.source)
        assert here.problems_after_resuming(out, "zarr") == []
        assert content(here.source) == before
