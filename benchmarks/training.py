"""Seconds per step of the real training beside the bare module and beside matrix products, in one interleaved run.

    python benchmarks/training.py CACHE [--size S M] [--batch N] [--precision float32|bfloat16] [--steps N] [--variants]

Three tables: where a step of `reencoder-train` goes, and what it costs above the module alone; every recipe beside L1;
precision and compilation (on CUDA, or with --variants). `train` itself runs, journal and TensorBoard on, without
validations, in a temporary folder; its first rows are warm-up, and its checkpoint comes after the last row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reencoder_pipeline.cache import LatentCache, open_cache
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.latent_module import SIZES, LatentModule
from reencoder_trainer.losses import reconstruction_loss
from reencoder_trainer.normalisation import Normalisation
from reencoder_trainer.optimisation import make_optimizer
from reencoder_trainer.step import autocast, stacked
from reencoder_trainer.stopwatch import PHASES
from reencoder_trainer.train import train
from reencoder_trainer.windows import WindowLoader

NAMES = (*PHASES, "rest")
WARMUP_ROWS = 1
MAX_STEPS = 1000  # of a block, whatever its seconds
MOST_WAITING, MOST_OUTSIDE = 0.01, 0.05  # the goals, as shares of a step
PAPER_STEPS, PAPER_BATCH, PAPER_HOURS = 250_000, 256, 48  # "under two days on one H100"
SHEET_PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}  # dense bfloat16


@dataclass(frozen=True)
class Timing:
    """Seconds of one step; `phases` holds its seconds by phase, where it was split."""

    step: float
    phases: Mapping[str, float] = field(default_factory=dict)

    def share(self, *names: str) -> float:
        return sum(self.phases[name] for name in names) / self.step


Block = Callable[[int], Timing]
"""Runs that many steps, after a warm-up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=["S", "M"], help="of the first table")
    parser.add_argument("--recipe-size", choices=list(SIZES), help="of the others; default: S, on CUDA M")
    parser.add_argument("--batch", type=int, help="windows; default: 32, on CUDA 256")
    parser.add_argument("--recipe-batch", type=int, help="of the recipes and variants; default: 16, on CUDA 256")
    parser.add_argument("--discriminator-channels", type=int, help="default: 32, on CUDA 256 as in the paper")
    parser.add_argument("--autoencoder", default="house", help="the one that made the cache")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--variants", action="store_true", help="the third table on the CPU too")
    parser.add_argument("--threads", type=int)
    add_block_options(parser)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    small = device.type == "cpu"
    settings = {
        "cache": arguments.cache, "out": "temporary", "device": device.type, "threads": arguments.threads,
        "batch_size": arguments.batch or (32 if small else 256), "precision": arguments.precision,
        "compile": arguments.compile, "autoencoder": arguments.autoencoder,
        "valid_every": 0, "checkpoint_minutes": 1e9,
    }  # fmt: skip
    base = TrainConfig.model_validate(settings)
    blocks: dict[str, Any] = {"seconds": arguments.seconds, "rounds": arguments.rounds, "steps": arguments.steps}
    cache = open_cache(base.cache)
    place = f"{torch.get_num_threads()} threads" if small else torch.cuda.get_device_name()
    print(f"{cache.path.name}, {device.type} ({place}), precision {base.precision}, compile {base.compile}")

    for size in arguments.size:
        print_overhead(overhead(changed(base, size=size), cache, device=device, **blocks), device=device)
    base = changed(
        base,
        size=arguments.recipe_size or ("S" if small else "M"),
        batch_size=arguments.recipe_batch or (16 if small else 256),
    )
    recipes = recipe_configs(base, cache, channels=arguments.discriminator_channels or (32 if small else 256))
    print_rows(f"recipes, size {base.size}", recipes, train_rows(recipes, **blocks))
    if arguments.variants or not small:
        variants = variant_configs(base)
        print_rows(f"variants of L1, size {base.size}", variants, train_rows(variants, **blocks))


def add_block_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, help="of a block; default: as many as take --seconds")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a block")
    parser.add_argument("--rounds", type=int, default=3, help="in each, every row has one block")


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    return TrainConfig.model_validate({**config.model_dump(), **values})


# --- blocks -----------------------------------------------------------------------------------------------------------


def interleaved(
    rows: Mapping[str, Block], *, seconds: float, rounds: int, steps: int | None
) -> dict[str, list[Timing]]:
    """Every row's timings, one a round; in a round the rows take turns, so that a busy neighbour meets all of them."""
    planned = {name: steps or _planned(seconds, block(1).step) for name, block in rows.items()}
    timings: dict[str, list[Timing]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, block in rows.items():
            timings[name].append(block(planned[name]))
    return timings


def _planned(seconds: float, step: float) -> int:
    return min(MAX_STEPS, max(2, round(seconds / max(step, 1e-6))))


def middle(timings: Sequence[Timing]) -> Timing:
    """Median step, and the median share of every phase of it."""
    step = median(timing.step for timing in timings)
    return Timing(step, {name: step * median(one.share(name) for one in timings) for name in timings[0].phases})


def ratio(timings: Sequence[Timing], references: Sequence[Timing]) -> float:
    """Median over rounds of step over step: both were measured within seconds of each other."""
    return median(one.step / other.step for one, other in zip(timings, references, strict=True))


def clocked(step: Callable[[], object], *, device: torch.device) -> Block:
    """A block of plain calls."""

    def block(steps: int) -> Timing:
        for count in (1, steps):  # one to warm up
            _wait(device)
            started = time.perf_counter()
            for _ in range(count):
                step()
            _wait(device)
        return Timing((time.perf_counter() - started) / steps)

    return block


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def training(config: TrainConfig) -> Block:
    """A block of `train` itself, split by its own journal."""

    def block(steps: int) -> Timing:
        log_every = max(1, min(config.log_every, steps // 3))
        rows = WARMUP_ROWS - (-steps // log_every)
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
            train(changed(config, out=Path(folder) / "run", steps=rows * log_every, log_every=log_every))
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return timing_of([json.loads(line) for line in lines], log_every=log_every)

    return block


def timing_of(journal: Sequence[Mapping[str, Any]], *, log_every: int) -> Timing:
    """Mean step of the rows after the warm-up, of which `seconds` says when they ended and the shares how."""
    rows = [row for row in journal if row["kind"] == "train"]
    phases, kept = dict.fromkeys(NAMES, 0.0), rows[WARMUP_ROWS:]
    for before, row in zip(rows[WARMUP_ROWS - 1 :], kept, strict=False):
        for name in NAMES:
            phases[name] += row[f"{name}_share"] * (row["seconds"] - before["seconds"])
    seconds = kept[-1]["seconds"] - rows[WARMUP_ROWS - 1]["seconds"]
    steps = len(kept) * log_every
    return Timing(seconds / steps, {name: phase / steps for name, phase in phases.items()})


def bare_module(config: TrainConfig, cache: LatentCache, *, device: torch.device) -> Callable[[], object]:
    """The limit of an L1 step: forward, loss, backward and fused AdamW on one fixed batch, nothing else."""
    inputs, targets = fixed_batch(config, cache, device=device)
    module = make_module(config, inputs.shape[1], targets.shape[1]).to(device)
    optimizer = make_optimizer(module, weight_decay=config.weight_decay)
    if config.compile:
        module.compile()

    def step() -> None:
        with autocast(device, config.precision):
            estimate = module(inputs)
        loss = config.losses.reconstruction * reconstruction_loss(estimate, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def fixed_batch(
    config: TrainConfig, cache: LatentCache, *, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch 0, normalised: (B, C_in, T) and (B, C_out, T), contiguous."""
    task = get_task(config.task)
    frames = cache.spec.frames_in(config.window_seconds)
    loader = WindowLoader(cache, task, split="train", num_frames=frames, seed=config.seed)
    batch = loader.batch(0, batch_size=config.batch_size)
    scaling = Normalisation.of_task(cache.statistics, task).to(device)
    inputs = scaling.inputs.apply(stacked(batch, task.inputs, device)).contiguous()
    return inputs, scaling.targets.apply(stacked(batch, task.targets, device)).contiguous()


def make_module(config: TrainConfig, in_channels: int, out_channels: int) -> LatentModule:
    blocks, width = SIZES[config.size]
    return LatentModule(in_channels, out_channels, blocks=config.blocks or blocks, width=config.width or width)


def step_flops(config: TrainConfig, cache: LatentCache) -> int:
    """Counted forward, 2 per multiply-add, times three: backward is two products for each one of forward.

    (Counting backward itself would take the depthwise convolutions' weight gradients for dense ones.)
    """
    inputs, targets = fixed_batch(config, cache, device=torch.device("cpu"))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make_module(config, inputs.shape[1], targets.shape[1])(torch.empty(inputs.shape))
    return 3 * counter.get_total_flops()


def matrix_products(config: TrainConfig, *, device: torch.device) -> tuple[Callable[[], object], int]:
    """One square matrix product in the step's precision, and its FLOPs: the device's practical limit."""
    with autocast(device, config.precision):
        low = torch.is_autocast_enabled(device.type)
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if low else torch.float32)
    out = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=out), 2 * size**3


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overhead:
    """The first table's numbers, of one size."""

    config: TrainConfig
    train: Timing
    bare: Timing
    train_over_bare: float
    flops: int
    matrix_flops: float  # per second, of matrix products

    def lines(self) -> list[tuple[str, float, float]]:
        """What is measured, and its goal: shares of a step."""
        return [
            ("waiting for data", self.train.share("data"), MOST_WAITING),
            ("outside forward, backward and optimiser", self.train.share("data", "rest"), MOST_OUTSIDE),
        ]


def overhead(
    config: TrainConfig, cache: LatentCache, *, device: torch.device, seconds: float, rounds: int, steps: int | None
) -> Overhead:
    product, product_flops = matrix_products(config, device=device)
    rows = {
        "train": training(config),
        "bare": clocked(bare_module(config, cache, device=device), device=device),
        "matrix": _for_seconds(clocked(product, device=device), seconds=min(1.0, seconds)),
    }
    timings = interleaved(rows, seconds=seconds, rounds=rounds, steps=steps)
    medians = {name: middle(values) for name, values in timings.items()}
    return Overhead(
        config, medians["train"], medians["bare"], ratio(timings["train"], timings["bare"]),
        flops=step_flops(config, cache), matrix_flops=product_flops / medians["matrix"].step,
    )  # fmt: skip


def _for_seconds(block: Block, *, seconds: float) -> Block:
    """The block with its own number of steps: matrix products are no training steps."""
    return lambda _: block(_planned(seconds, block(1).step))


def print_overhead(result: Overhead, *, device: torch.device) -> None:
    config = result.config
    print(f"\n{config.task}, size {config.size}, L1, batch {config.batch_size}, windows of {config.window_seconds} s")
    print(f"{'':14}{'ms/step':>10}{'windows/s':>11}" + "".join(f"{name:>11}" for name in NAMES) + "  of matrix products")
    for name, timing in (("train()", result.train), ("bare module", result.bare)):
        shares = "".join(f"{timing.share(phase):11.2%}" if timing.phases else f"{'-':>11}" for phase in NAMES)
        limit = result.flops / timing.step / result.matrix_flops
        print(f"{name:14}{1e3 * timing.step:10.1f}{config.batch_size / timing.step:11,.1f}{shares}{limit:12.2f}")
    print(f"train() takes {result.train_over_bare:.3f} of the bare module's time (median of rounds)")
    for name, share, goal in result.lines():
        print(f"{name}: {share:.2%} of a step; goal at most {goal:.0%}: {'met' if share <= goal else 'NOT met'}")
    achieved = result.flops / result.train.step
    print(f"{achieved / 1e12:.3f} of {result.matrix_flops / 1e12:.3f} TFLOPS that matrix products reach here", end="")
    peak = SHEET_PEAKS.get(torch.cuda.get_device_name()) if device.type == "cuda" else None
    print(f", {achieved / peak:.1%} of the data sheet's bfloat16 peak" if peak else "")
    print(_paper_scale(config, result.train))


def recipe_configs(base: TrainConfig, cache: LatentCache, *, channels: int) -> dict[str, TrainConfig]:
    adversarial = {"losses": {"adversarial": 0.5, "feature_matching": 1.0}, "discriminator": {"channels": channels}}
    recipes = {
        "bwe L1": base,
        f"bwe L1 + D({channels})": changed(base, **adversarial),
        "bwe L1 + mel": changed(base, losses={"mel": 1.0}),
    }
    if {"left", "right"} <= set(cache.streams):
        # Windows of the paper's length, three times that of bwe.
        m2s = {"task": "m2s", "window_seconds": 4.0, "condition": {"channels": 64}}
        recipes["m2s L1 + condition"] = changed(base, **m2s)
    return recipes


def variant_configs(base: TrainConfig) -> dict[str, TrainConfig]:
    return {
        f"{precision}{', compiled' if compiled else ''}": changed(base, precision=precision, compile=compiled)
        for precision in ("float32", "bfloat16")
        for compiled in (False, True)
    }


def train_rows(
    configs: Mapping[str, TrainConfig], *, seconds: float, rounds: int, steps: int | None
) -> dict[str, list[Timing]]:
    rows = {name: training(config) for name, config in configs.items()}
    return interleaved(rows, seconds=seconds, rounds=rounds, steps=steps)


def print_rows(title: str, configs: Mapping[str, TrainConfig], timings: Mapping[str, Sequence[Timing]]) -> None:
    first = next(iter(timings.values()))
    print(f"\n{title}, batch {next(iter(configs.values())).batch_size}")
    print(f"{'':22}{'ms/step':>10}{'windows/s':>11}{'of first':>10}" + "".join(f"{name:>11}" for name in NAMES))
    for name, values in timings.items():
        timing, batch = middle(values), configs[name].batch_size
        shares = "".join(f"{timing.share(phase):11.2%}" for phase in NAMES)
        rate = f"{1e3 * timing.step:10.1f}{batch / timing.step:11,.1f}{ratio(values, first):10.2f}"
        print(f"{name:22}{rate}{shares}")
    for name, values in timings.items():
        print(f"{name}: {_paper_scale(configs[name], middle(values))}")


def paper_hours(config: TrainConfig, step: float) -> float:
    """Of the paper's steps and batch, if a window costs what it costs here."""
    return PAPER_STEPS * PAPER_BATCH * step / config.batch_size / 3600


def _paper_scale(config: TrainConfig, timing: Timing) -> str:
    hours = paper_hours(config, timing.step)
    text = f"{PAPER_STEPS:,} steps of batch {PAPER_BATCH}: {hours:,.1f} hours, extrapolated from this rate"
    return f"{text}; {hours / PAPER_HOURS:.3g} of the paper's two days on one H100"


if __name__ == "__main__":
    main()
