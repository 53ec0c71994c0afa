"""The fault suite in full, as a table: `python tests/faults/figures.py [--share 0.1] [--seed 1] [--storage zarr]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from scene import STORAGES, Tally
from test_flips import flips_read, flips_verified
from test_full_disks import full_at_operations, full_small_disks
from test_kills import killed
from test_lost import lost
from test_parts_at_once import crowds
from test_sources import disturbed
from test_torn import torn

HEAD = "| fault | storage | trials | noticed | then as undisturbed | without effect | wrong | s |"


def kinds(storage: str, *, share: float, seed: int) -> Iterator[Callable[[], Tally]]:
    def of(trials: int) -> int:
        return max(1, round(trials * share))

    yield lambda: flips_verified(storage, trials=of(1000), seed=seed)
    yield lambda: flips_read(storage, trials=of(1000), seed=seed)
    yield lambda: killed(storage, trials=of(100), seed=seed, by="time")
    yield lambda: killed(storage, trials=of(100), seed=seed, by="operation")
    yield lambda: killed(storage, trials=of(20), seed=seed, by="last operations")
    yield lambda: killed(storage, trials=of(40), seed=seed, by="operation", part="1/2")
    yield lambda: crowds(storage, trials=of(40), seed=seed)
    yield lambda: full_small_disks(storage, trials=of(30), seed=seed)
    yield lambda: full_at_operations(storage, trials=of(40), seed=seed)
    yield lambda: full_at_operations(storage, trials=of(20), seed=seed, part="2/2")
    yield lambda: disturbed(storage, trials=of(40), seed=seed, fault="vanish")
    yield lambda: disturbed(storage, trials=of(40), seed=seed, fault="change")
    yield lambda: lost(storage, trials=of(60), seed=seed)
    yield lambda: torn(storage, trials=None if share == 1.0 else of(200), seed=seed)


def row(tally: Tally, seconds: float) -> str:
    counts = (tally.trials, tally.noticed or "", tally.recovered or "", tally.harmless or "", len(tally.wrong))
    return f"| {tally.kind} | {tally.storage} | {' | '.join(str(count) for count in counts)} | {seconds:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials; 1 takes minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--storage", choices=STORAGES, action="append")
    arguments = parser.parse_args()
    print(f"{HEAD}\n{'|---' * 8}|")
    wrong = 0
    for storage in arguments.storage or STORAGES:
        for kind in kinds(storage, share=arguments.share, seed=arguments.seed):
            start = time.monotonic()
            tally = kind()
            print(row(tally, time.monotonic() - start), flush=True)
            for line in tally.wrong:
                print(line, file=sys.stderr, flush=True)
            wrong += len(tally.wrong)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
