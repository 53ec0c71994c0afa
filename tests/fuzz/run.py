"""Fuzzes every reader of foreign bytes for as long as you like; what fails is kept in tests/fuzz/found and named.

    python tests/fuzz/run.py --minutes 60 [--seed 0] [--target index_zarr --target tar] [--list]

Targets take turns, each with examples of its own (hypothesis, a new seed a turn). A content that made a reader fail is
shrunk, then kept as tests/fuzz/found/<target>/<digest>; the test suite reads all of these again. Exit code 1 if there
was one. The table at the end has the number of contents that were read, refused, and failed, and the longest trial.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("", "support")]
from fuzz.targets import Target, make_targets, run  # noqa: E402
from fuzz.workspace import make_workspace  # noqa: E402

FOUND = Path(__file__).parent / "found"
EXAMPLES = 100  # a turn
STUCK = 60  # seconds after which the process gives up: code in C cannot be interrupted


@dataclass
class Tally:
    """Of one target: contents read, refused and failed, and the seconds of the longest trial."""

    counts: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this one; repeatable")
    parser.add_argument("--list", action="store_true", help="name the targets")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    silence_libraries()
    with TemporaryDirectory(prefix="reencoder-fuzz-") as name:
        targets = make_targets(make_workspace(Path(name)))
        if options.list:
            print("\n".join(targets))
            return 0
        chosen = [targets[wanted] for wanted in options.target or targets]
        for target in chosen:
            for content in target.sound:
                run(target, content)  # imports are not a reader's time or memory
        return report(take_turns(chosen, seconds=60 * options.minutes, first_seed=options.seed))


def silence_libraries() -> None:
    """Decoders in C print to standard error; from here on only this program does."""
    own = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = os.fdopen(own, "w", buffering=1)


def take_turns(targets: list[Target], *, seconds: float, first_seed: int) -> dict[str, Tally]:
    tallies, turn, end = {target.name: Tally() for target in targets}, first_seed, time.monotonic() + seconds
    while time.monotonic() < end:
        for target in targets:
            if time.monotonic() < end:
                fuzz(target, tallies[target.name], turn=turn)
        turn += 1
        done = sum(sum(tally.counts.values()) for tally in tallies.values())
        print(f"turn {turn}: {done:,} contents, {(end - time.monotonic()) / 60:.0f} minutes left", file=sys.stderr)
    return tallies


def fuzz(target: Target, tally: Tally, *, turn: int) -> None:
    """One turn of a target; a failure is shrunk by hypothesis, and its content kept."""
    last: list[bytes] = []

    def trial(content: bytes) -> None:
        began = time.monotonic()
        faulthandler.dump_traceback_later(STUCK, exit=True)
        try:
            refused = run(target, content)
            tally.counts["refused" if refused else "read"] += 1
        except BaseException:
            last[:] = [content]
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            tally.longest = max(tally.longest, time.monotonic() - began)

    decorated = settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=tuple(HealthCheck.__members__.values()), report_multiple_bugs=False, print_blob=False,
    )(given(target.damaged)(trial))  # fmt: skip
    try:
        seed(turn)(decorated)()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a reader let through is what is looked for
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if reason not in tally.failures:
            tally.failures[reason] = keep(target, last[0])
            print(f"{target.name}: {reason}\n  {tally.failures[reason]}", file=sys.stderr)
        tally.counts["failed"] += 1


def keep(target: Target, content: bytes) -> str:
    path = FOUND / target.name / hashlib.sha256(content).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def report(tallies: dict[str, Tally]) -> int:
    print(f"{'target':24} {'read':>9} {'refused':>9} {'failed':>7} {'longest, s':>11}")
    for name, tally in tallies.items():
        counts = tally.counts
        print(f"{name:24} {counts['read']:9,} {counts['refused']:9,} {counts['failed']:7,} {tally.longest:11.2f}")
        for reason, path in tally.failures.items():
            print(f"    {reason}\n    {path}")
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
