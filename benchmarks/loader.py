"""Compares the windows per second of the cache's loader with memcpy and with other loaders, on one data set.

    python benchmarks/loader.py [--gigabytes 2] [--no-cold] [--folder DIR] [--markdown benchmarks/RESULTS.md]

With all peers it takes half an hour on a quiet machine, 12 GB of disk (17 with --folder), and as much free memory,
because the warm part needs the files there. The data set is noise in tracks of 2 to 6 minutes: low_band, mono, left and
right, float16 latents of 64 channels. bwe reads two of these streams, m2s three; a window counts once for all its
streams. Every row delivers the same bytes in batches as the trainer's step takes them: frames before channels, float16,
on the CPU (widening and transposing are the device's work). The first batch of every row is looked up in the data, and
its tracks are counted: there are many if windows are independent.

memcpy is a torch `copy_` of as many bytes as a batch has, from anywhere in the data into a buffer that is used again;
it is measured before and after every block of every row, and rows take turns.

There are two parts. Warm: all files are in the page cache. Cold: the files are dropped from it before each block, and
blocks are short enough to read only a small share of the data, as if the data were larger than memory.

Peers: .npy files in a torch DataLoader, zarr-python and webdataset always run; litdata, mosaicml-streaming and zarrs
run if they are installed. (Installed without dependencies, litdata needs lightning-utilities and obstore here;
mosaicml-streaming needs brotli, python-snappy, cramjam, xxhash, zstd and catalogue.)
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import page_cache
import torch
from loader_peers import peer_rows
from loader_rows import Proof, Row, Windows, our_row, raw_row
from loader_tables import (
    MEMCPY,
    OURS,
    SHARE_GOALS,
    Cold,
    Report,
    cold_behaviour,
    cold_table,
    reached,
    warm_table,
)
from random_cache import STREAMS, Noise, draw_noise, write_random_cache
from rounds import Block, Plan, Timing, interleaved

from reencoder_pipeline.tasks import TASKS, get_task

Step = Callable[[], object]

OPTIONAL = {"litdata": "litdata", "mosaicml-streaming": "streaming", "zarrs": "zarrs"}  # distribution -> module
MEMCPY_SHARE = 0.15  # of a block's seconds, before it and after it
PREFETCHED = 2  # batches a worker of a DataLoader has ready
COLD_SHARES = {"exactly": 0.1, "around": 0.1, "track": 0.1, "sequence": 0.3}  # of the data: what a cold block reads
COLD_BATCHES = 10  # of a cold block, where a whole batch would read too much
COLD_BLOCKS = 5  # a round, at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the data, all four streams")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--frames", nargs="+", type=int, default=list(SHARE_GOALS))
    parser.add_argument("--no-cold", action="store_true", help="only the first part")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest time of a block")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, in each of which every row has one block")
    parser.add_argument("--threads", type=int, help="torch's threads for memcpy and rows; default: torch's choice")
    parser.add_argument("--folder", type=Path, help="folder that keeps the files; default: a temporary one")
    parser.add_argument("--markdown", type=Path, help="append the tables to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments, Report(arguments.markdown))


def measure(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    """Make the data, then both parts for every task and length of window."""
    noise, plan = draw_noise(gigabytes=arguments.gigabytes, seed=0), Plan(arguments.seconds, arguments.rounds, steps=1)
    data, goals = folder / f"noise_{noise.frames.nbytes}", []
    data.mkdir(parents=True, exist_ok=True)
    caches = {storage: write_random_cache(data / storage, noise, storage=storage) for storage in OURS}
    report.say(circumstances(noise))
    for task in map(get_task, arguments.tasks):
        proof = Proof(noise, STREAMS.index(task.streams[0]))
        for frames in arguments.frames:
            wanted = Windows(noise, task, frames, arguments.batch)
            title = f"{task.name}, {len(task.streams)} streams, {frames} frames, batch {arguments.batch}"
            progress(f"{title}: files")
            rows = [our_row(caches[storage], name=name) for storage, name in OURS.items()]
            rows += peer_rows(wanted, caches["zarr"], data / task.name)
            tracks = {row.name: tracks_drawn(row, wanted, proof) for row in rows}
            report.say([in_memory(rows)])
            warm = warm_timings(rows, wanted, plan)
            report.show(warm_table(rows, warm, tracks, wanted, absent=absent(), title=f"Warm: {title}"))
            found = reached(rows, warm, frames=frames)
            report.say([goal.text() for goal in found])
            goals += found
            if arguments.no_cold:
                continue
            limits = [raw_row(caches["zarr"], threads=threads) for threads in (1, 16)]
            cold = {row.name: cold_timing(row, wanted, plan) for row in [*limits, *rows]}
            report.show(cold_table(cold, warm, wanted, title=f"Cold: {title}"))
            report.say(cold_behaviour(cold, rows, wanted))
        if arguments.folder is None:
            shutil.rmtree(data / task.name)
    report.say([f"{sum(goal.met for goal in goals)} of {len(goals)} goals met"])


def tracks_drawn(row: Row, wanted: Windows, proof: Proof) -> int:
    """Checks the first batch: each of its windows must be in the data."""
    progress(f"{row.name}: is it right?")
    with closing(row.open(wanted)) as batches:
        return proof.tracks_in(next(batches), wanted, name=row.name)


# --- warm -------------------------------------------------------------------------------------------------------------


def in_memory(rows: Sequence[Row]) -> str:
    """Read every file once and report how much stayed in memory."""
    files = sorted({file for row in rows for file in page_cache.files_in(row.folder)})
    page_cache.warm(files)
    size = sum(file.stat().st_size for file in files) / 1e9
    return f"{page_cache.resident_share(files):.1%} of {size:.2f} GB of files in the page cache before the warm rows"


def warm_timings(rows: Sequence[Row], wanted: Windows, plan: Plan) -> dict[str, list[Timing]]:
    """Seconds of a batch; the phase `memcpy` is the time of copying the same number of bytes next to it."""
    copy = memcpy(wanted)
    with ExitStack() as opened:
        blocks = {row.name: warm_block(row, wanted, copy, plan.seconds, opened) for row in rows}
        timings = interleaved(blocks, plan)
    gc.collect()
    return timings


def warm_block(row: Row, wanted: Windows, copy: Step, seconds: float, opened: ExitStack) -> Block:
    """A row stays open between blocks unless it has workers, which would keep working in other rows' time."""
    progress(row.name)
    if kept := None if row.workers else opened.enter_context(closing(row.open(wanted))):
        lasting(lambda: next(kept), seconds / 2)  # first looks at pages, and what they make a loader do

    def block(_: int) -> Timing:
        progress(row.name)
        before = lasting(copy, MEMCPY_SHARE * seconds)
        with nullcontext(kept) if kept else closing(row.open(wanted)) as batches:
            for _ in range(1 + PREFETCHED * row.workers):  # what was ready before the clock started
                next(batches)
            step = lasting(lambda: next(batches), seconds)
        return Timing(step, {MEMCPY: (before + lasting(copy, MEMCPY_SHARE * seconds)) / 2})

    return block


def memcpy(wanted: Windows) -> Step:
    """Copy as many bytes as a batch has, from anywhere in the data, into a buffer that is used again."""
    source = torch.from_numpy(wanted.noise.frames.reshape(-1))
    target = torch.empty(min(math.prod(wanted.shape), len(source)), dtype=source.dtype)
    starts = itertools.cycle(np.random.default_rng(0).integers(len(source) - len(target) + 1, size=1024).tolist())
    return lambda: target.copy_(source[next(starts) :][: len(target)])


def lasting(step: Step, seconds: float) -> float:
    """Mean seconds of a step, over the steps that fit into `seconds`."""
    started, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds or not steps:
        step()
        steps += 1
    return passed / steps


# --- cold -------------------------------------------------------------------------------------------------------------


def cold_timing(row: Row, wanted: Windows, plan: Plan) -> Cold:
    """Blocks that start with no file in memory, until they took as long as a warm block; medians over blocks.

    A row first delivers its prepared batches and notices that files are not in memory; then they are dropped again.
    """
    progress(f"{row.name}, cold")
    files, blocks, passed = page_cache.files_in(row.folder), [], 0.0
    batch, count = cold_batches(row, wanted)
    while len(blocks) < plan.rounds or (passed < plan.seconds and len(blocks) < COLD_BLOCKS * plan.rounds):
        page_cache.drop(files)
        with closing(row.open(replace(wanted, batch=batch))) as batches:
            for _ in range(1 + PREFETCHED * row.workers):
                next(batches)
            page_cache.drop(files)
            left, fetched, started = page_cache.resident_share(files), page_cache.bytes_from_disk(), time.perf_counter()
            for _ in range(count):
                next(batches)
            seconds, fetched = time.perf_counter() - started, page_cache.bytes_from_disk() - fetched
        gc.collect()  # a mapped file cannot be dropped
        passed += seconds
        blocks.append(Cold(seconds / (batch * count), fetched / (batch * count * wanted.window_bytes), left))
    return Cold(
        median(block.window for block in blocks),
        None if row.workers else median(block.fetched or 0.0 for block in blocks),
        max(block.left for block in blocks),
    )


def cold_batches(row: Row, wanted: Windows) -> tuple[int, int]:
    """Windows in a batch and timed batches in a block, so that a block reads about COLD_SHARES of the data."""
    touched = {
        "exactly": 2 * wanted.window_bytes,  # in whole pages
        "around": len(wanted.streams) * page_cache.read_ahead_bytes(row.folder) + wanted.window_bytes,
        "track": wanted.data_bytes / len(wanted.noise.lengths),
        "sequence": wanted.window_bytes,
    }
    windows = max(1, int(COLD_SHARES[row.reads] * wanted.data_bytes / touched[row.reads]))
    small = row.reads == "track" or (row.reads == "around" and row.workers)
    batch = max(1, min(wanted.batch, windows // COLD_BATCHES if small else windows))
    return batch, max(1, windows // batch - PREFETCHED * row.workers)


# --- where and with what ----------------------------------------------------------------------------------------------


def circumstances(noise: Noise) -> list[str]:
    packages = ("torch", "numpy", "zarr", "webdataset", *(name for name in OPTIONAL if name not in absent()))
    return [
        f"{noise.frames.nbytes / 1e9:.2f} GB of float16 latents in {len(noise.lengths)} tracks, {len(STREAMS)} streams",
        f"{processor()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads of torch, "
        f"{page_cache.available_bytes() / 1e9:.0f} GB of memory free; Python {platform.python_version()}",
        ", ".join(f"{name} {version(name)}" for name in packages),
        *(f"not installed: {name}" for name in absent()),
        *(["a stub stands in for torchvision while mosaicml-streaming is imported"] if stubbed() else []),
    ]


def absent() -> list[str]:
    return [name for name, module in OPTIONAL.items() if not find_spec(module)]


def stubbed() -> bool:
    return "mosaicml-streaming" not in absent() and not find_spec("torchvision")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
