"""Prints the tables and goals of the loader's benchmark and appends them to a Markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from loader_rows import Row, Windows
from random_cache import Storage
from rounds import Timing, middle, ratio

from reencoder_eval.tables.text_table import TextTable, markdown

OURS: dict[Storage, str] = {"zarr": "our loader, Zarr shards", "webdataset": "our loader, tar shards"}
PER_ITEM = ".npy loaded per item"
SHARE_GOALS = {60: 0.5, 172: 0.7}  # of memcpy, by frames
PEER_GOAL, PER_ITEM_GOAL, WORKERS_GOAL = 5.0, 100.0, 1.0
LIMIT = "pread a window, 16 threads"
MOST_LEFT, LEAST_FETCHED = 0.05, 0.5  # of files that were to be dropped; of bytes that were to come from a disk
MEMCPY = "memcpy"


@dataclass(frozen=True)
class Goal:
    what: str
    value: float
    least: float

    @property
    def met(self) -> bool:
        return self.value >= self.least

    def text(self) -> str:
        return f"{self.what}: {self.value:.2f}; goal at least {self.least:g}: {'met' if self.met else 'NOT met'}"


@dataclass(frozen=True)
class Cold:
    """A row whose files were dropped from the page cache: seconds a window, bytes from the disk per byte delivered
    (unknown where worker processes read), and the share of its files that could not be dropped."""

    window: float
    fetched: float | None
    left: float

    @property
    def is_cold(self) -> bool:
        return self.left <= MOST_LEFT and (self.fetched is None or self.fetched >= LEAST_FETCHED)


class Report:
    """Prints text and, if there is a file, appends it."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def show(self, table: TextTable) -> None:
        print(f"\n{plain(table)}", flush=True)
        self._append(markdown(table))

    def say(self, lines: Sequence[str]) -> None:
        print("\n".join(lines), flush=True)
        self._append("".join(f"- {line}\n" for line in lines))

    def _append(self, text: str) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")


def plain(table: TextTable) -> str:
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    body = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join([table.title, *body])


def warm_table(
    rows: Sequence[Row],
    timings: Mapping[str, Sequence[Timing]],
    tracks: Mapping[str, int],
    wanted: Windows,
    *,
    absent: Sequence[str],
    title: str,
) -> TextTable:
    """`of memcpy` is the median over blocks of each block's own share; `ours` the median of the rounds' ratios."""
    ours = timings[OURS["zarr"]]
    copies = median(timing.phases[MEMCPY] for values in timings.values() for timing in values)
    lines = [(MEMCPY, "-", "-", *_rates(copies, wanted), "1", "-")]
    for row in rows:
        timing = middle(timings[row.name])
        factor = f"{ratio(timings[row.name], ours):.2f}"
        draws = "all data" if row.independent else "a buffer"
        share = f"{timing.share(MEMCPY):.4f}"
        lines.append((row.name, draws, str(tracks[row.name]), *_rates(timing.step, wanted), share, factor))
    lines += [(name, "not installed", *["-"] * 5) for name in absent]
    columns = ("row", "draws from", "tracks in a batch", "windows/s", "GB/s", "of memcpy", "ours is times")
    return TextTable(title, columns, tuple(lines))


def _rates(step: float, wanted: Windows) -> tuple[str, str]:
    return f"{wanted.batch / step:,.0f}", f"{wanted.batch * wanted.window_bytes / step / 1e9:.3f}"


def reached(rows: Sequence[Row], timings: Mapping[str, Sequence[Timing]], *, frames: int) -> list[Goal]:
    """The loader's goals as ratios of this run; its Zarr shards are compared with peers."""
    ours = timings[OURS["zarr"]]
    peers = {row.name: row for row in rows if row.name not in OURS.values()}
    factors = {name: ratio(timings[name], ours) for name in peers}
    goals = []
    if frames in SHARE_GOALS:
        for name in OURS.values():
            share = middle(timings[name]).share(MEMCPY)
            goals.append(Goal(f"{name}, of memcpy at {frames} frames", share, SHARE_GOALS[frames]))
    for text, tuned in (("", False), (", tuned for this benchmark", True)):
        drawing = [name for name, row in peers.items() if row.independent and row.tuned == tuned]
        best = min(drawing, key=factors.__getitem__)
        goals.append(Goal(f"times the best peer that draws from all data{text} ({best})", factors[best], PEER_GOAL))
    goals += [Goal(f"times {name}", factors[name], PER_ITEM_GOAL) for name in peers if name.startswith(PER_ITEM)]
    helped = min((name for name, row in peers.items() if row.workers), key=factors.__getitem__)
    goals.append(Goal(f"without workers, times the best that has them ({helped})", factors[helped], WORKERS_GOAL))
    return goals


def cold_table(
    cold: Mapping[str, Cold], warm: Mapping[str, Sequence[Timing]], wanted: Windows, *, title: str
) -> TextTable:
    lines = []
    for name, timing in cold.items():
        of_warm = f"{middle(warm[name]).step / wanted.batch / timing.window:.4f}" if name in warm else "-"
        lines.append(
            (
                name,
                f"{1 / timing.window:,.0f}",
                f"{wanted.window_bytes / timing.window / 1e6:,.1f}",
                f"{cold[LIMIT].window / timing.window:.3f}",
                of_warm,
                "-" if timing.fetched is None else f"{timing.fetched:.1f}",
                f"{timing.left:.1%}",
            )
        )
    columns = ("row", "windows/s", "MB/s", "of pread x 16", "of warm", "bytes read per byte", "not dropped")
    return TextTable(title, columns, tuple(lines))


def cold_behaviour(cold: Mapping[str, Cold], rows: Sequence[Row], wanted: Windows) -> list[str]:
    """Describes in words how the loader compares when its data does not fit into memory."""
    lines = []
    for name in OURS.values():
        rate, fetched = 1 / cold[name].window, cold[name].fetched or 0.0
        lines.append(
            f"cold, {name}: {rate:,.0f} windows/s, or {rate / wanted.batch:,.1f} batches of {wanted.batch} a second; "
            f"{fetched:.1f} bytes from the disk for a byte delivered"
        )
    for text, independent in (("draws from all data", True), ("shuffles a buffer", False)):
        peers = [row.name for row in rows if row.independent == independent and row.name not in OURS.values()]
        if peers := [name for name in peers if cold[name].is_cold]:
            best = min(peers, key=lambda name: cold[name].window)
            factor = cold[best].window / cold[OURS["zarr"]].window
            lines.append(f"cold, times the fastest peer that {text} ({best}): {factor:.2f}")
    if warm := [name for name, timing in cold.items() if not timing.is_cold]:
        lines.append(f"cold, but not counted, for too little came from the disk: {'; '.join(warm)}")
    return lines
