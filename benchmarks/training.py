"""Compares the seconds per step of a real training with the bare module and with matrix products.

    python benchmarks/training.py CACHE [--size S M] [--batch N] [--precision float32|bfloat16] [--steps N] [--variants]

There are three tables: the parts of a step of `reencoder-train` and its cost above the module alone; every recipe
against L1; number formats and compilation (on CUDA, or with --variants). `train` itself runs with its journal and
TensorBoard but without validations, in a temporary folder. Its first row is warm-up, and its only checkpoint comes
after the last row. Rows take turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rounds import NAMES, Block, Plan, Timing, clocked, interleaved, middle, planned, ratio
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.tasks import get_task
from reencoder_pipeline.training.autocast import autocast
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.module.latent_module import SIZES, LatentModule
from reencoder_trainer.module.normalisation import Normalisation
from reencoder_trainer.training.learner import stacked
from reencoder_trainer.training.losses import reconstruction_loss
from reencoder_trainer.training.optimisation import make_optimizer, set_rate
from reencoder_trainer.training.train import train
from reencoder_trainer.windows.mapped_windows import WindowLoader

WARMUP_ROWS = 1  # of the journal
MOST_WAITING, MOST_OUTSIDE = 0.01, 0.05  # the goals, as shares of a step
PAPER_STEPS, PAPER_BATCH, PAPER_HOURS = 250_000, 256, 48  # "under two days on one H100"
# From the data sheets, in bfloat16 and without sparsity.
SHEET_PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=["S", "M"], help="sizes in the first table")
    parser.add_argument("--discriminator-channels", type=int, help="default: 32; on CUDA 256, as in the paper")
    parser.add_argument("--variants", action="store_true", help="make the third table on the CPU too")
    parser.add_argument("--compile", action="store_true", help="compile in the first two tables")
    add_options(parser)
    arguments = parser.parse_args()
    base, cache = base_config(arguments), open_cache(arguments.cache)
    on_cuda = base.device == "cuda"
    print(f"{cache.path.name}, {place(base)}")
    plan = Plan(arguments.seconds, arguments.rounds, arguments.steps)
    for size in arguments.size:
        config = changed(base, size=size)
        print_overhead(config, overhead_rows(config, cache, plan), cache)
    # The CPU does the other tables at half the batch and the first size, so that they end in minutes.
    if not on_cuda:
        base = changed(base, batch_size=max(1, base.batch_size // 2))
    base = changed(base, size=arguments.size[-1 if on_cuda else 0])
    recipes = recipe_configs(base, cache, channels=arguments.discriminator_channels or (256 if on_cuda else 32))
    print_rows("recipes", recipes, train_rows(recipes, plan))
    if arguments.variants or on_cuda:
        variants = variant_configs(base)
        print_rows("bwe L1 by precision", variants, train_rows(variants, plan))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cache", type=Path)
    parser.add_argument("--batch", type=int, help="windows of a batch; default: 32, on CUDA 256")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--autoencoder", default="house", help="autoencoder of the cache")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument(
        "--steps", type=int, help="steps of a block; default: as many as fit into --seconds, at least 2"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a block")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, in each of which every row has one block")


def base_config(arguments: argparse.Namespace) -> TrainConfig:
    """Settings of all rows: bwe, L1, size S, the paper's window."""
    on_cuda = torch.cuda.is_available()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = {
        "cache": arguments.cache, "out": "temporary", "device": "cuda" if on_cuda else "cpu",
        "threads": arguments.threads, "batch_size": arguments.batch or (256 if on_cuda else 32),
        "precision": arguments.precision, "compile": vars(arguments).get("compile", False),
        "autoencoder": arguments.autoencoder, "valid_every": 0, "checkpoint_minutes": 1e9,
    }  # fmt: skip
    return TrainConfig.model_validate(settings)


def place(config: TrainConfig) -> str:
    machine = torch.cuda.get_device_name() if config.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{machine}, precision {config.precision}{', compiled' if config.compile else ''}"


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    return TrainConfig.model_validate({**config.model_dump(), **values})


# --- blocks -----------------------------------------------------------------------------------------------------------


def training(config: TrainConfig) -> Block:
    """A block of `train` itself, split by its own journal."""

    def block(steps: int) -> Timing:
        if config.compile:
            torch.compiler.reset()  # modules of earlier blocks would use up dynamo's limit, and then none is compiled
        log_every = max(1, min(config.log_every, steps // 3))
        rows = WARMUP_ROWS - (-steps // log_every)
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
            train(changed(config, out=Path(folder) / "run", steps=rows * log_every, log_every=log_every))
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return timing_of([json.loads(line) for line in lines], log_every=log_every)

    return block


def timing_of(journal: Sequence[Mapping[str, Any]], *, log_every: int) -> Timing:
    """Mean step and shares of its phases, from the journal's rows after the warm-up."""
    rows = [row for row in journal if row["kind"] == "train"]
    phases, kept = dict.fromkeys(NAMES, 0.0), rows[WARMUP_ROWS:]
    for before, row in zip(rows[WARMUP_ROWS - 1 :], kept, strict=False):
        for name in NAMES:
            phases[name] += row[f"{name}_share"] * (row["seconds"] - before["seconds"])
    seconds = kept[-1]["seconds"] - rows[WARMUP_ROWS - 1]["seconds"]
    steps = len(kept) * log_every
    return Timing(seconds / steps, {name: phase / steps for name, phase in phases.items()})


def bare_module(config: TrainConfig, cache: LatentCache) -> Callable[[], Tensor]:
    """The limit of an L1 step: forward, loss, backward and fused AdamW on one fixed batch, nothing else."""
    device = torch.device(config.device)
    inputs, targets = fixed_batch(config, cache, device=device)
    module = make_module(config, inputs.shape[1], targets.shape[1]).to(device)
    optimizer = make_optimizer(module, weight_decay=config.weight_decay)
    set_rate(optimizer, config.lr)
    if config.compile:
        module.compile()

    def step() -> Tensor:
        with autocast(device, config.precision):
            estimate = module(inputs)
        loss = config.losses.reconstruction * reconstruction_loss(estimate, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def fixed_batch(config: TrainConfig, cache: LatentCache, *, device: torch.device) -> tuple[Tensor, Tensor]:
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
    """FLOPs of forward, 2 per multiply-add, times three: backward has two products for each one of forward.

    (Counting backward itself would take the depthwise convolutions' weight gradients for dense ones.)
    """
    inputs, targets = fixed_batch(config, cache, device=torch.device("cpu"))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make_module(config, inputs.shape[1], targets.shape[1])(torch.empty(inputs.shape))
    return 3 * counter.get_total_flops()


def matrix_product(config: TrainConfig) -> tuple[Callable[[], object], int]:
    """One square matrix product in the step's precision, and its FLOPs: the device's practical limit."""
    with autocast(torch.device(config.device), config.precision):
        low = torch.is_autocast_enabled(config.device)
    size = 8192 if config.device == "cuda" else 2048
    matrix = torch.randn(size, size, device=config.device, dtype=torch.bfloat16 if low else torch.float32)
    out = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=out), 2 * size**3


# --- tables -----------------------------------------------------------------------------------------------------------


def overhead_rows(config: TrainConfig, cache: LatentCache, plan: Plan) -> dict[str, list[Timing]]:
    device = torch.device(config.device)
    product = clocked(matrix_product(config)[0], device=device)
    rows = {
        "train()": training(config),
        "bare module": clocked(bare_module(config, cache), device=device),
        # Its own number of products, whatever the steps of the others: half a second's.
        "matrix products": lambda _: product(planned(0.5, product(1).step)),
    }
    return interleaved(rows, plan)


def print_overhead(config: TrainConfig, timings: Mapping[str, Sequence[Timing]], cache: LatentCache) -> None:
    flops, limit = step_flops(config, cache), matrix_product(config)[1] / middle(timings["matrix products"]).step
    whole, bare = timings["train()"], timings["bare module"]
    rows = {"bare module": bare, "train()": whole}
    print_rows(f"bwe L1, windows of {config.window_seconds} s", dict.fromkeys(rows, config), rows)
    for text, names, goal in (
        ("waiting for data", ("data",), MOST_WAITING),
        ("outside forward, backward and optimiser", ("data", "rest"), MOST_OUTSIDE),
    ):
        share = middle(whole).share(*names)
        print(f"{text}: {share:.2%} of a step; goal at most {goal:.0%}: {'met' if share <= goal else 'NOT met'}")
    achieved = flops / middle(whole).step
    print(f"{achieved / 1e12:.3f} TFLOPS, {achieved / limit:.2f} of what square matrix products reach here", end="")
    peak = SHEET_PEAKS.get(torch.cuda.get_device_name()) if config.device == "cuda" else None
    print(f", {achieved / peak:.3f} of the data sheet's bfloat16 peak" if peak else "")


def recipe_configs(base: TrainConfig, cache: LatentCache, *, channels: int) -> dict[str, TrainConfig]:
    adversarial = {"losses": {"adversarial": 0.5, "feature_matching": 1.0}, "discriminator": {"channels": channels}}
    recipes = {
        "bwe L1": base,
        f"bwe L1 + D({channels})": changed(base, **adversarial),
        "bwe L1 + mel": changed(base, losses={"mel": 1.0}),
    }
    if {"left", "right"} <= set(cache.streams):
        m2s = {"task": "m2s", "window_seconds": 4.0, "condition": {"channels": 64}}  # the paper's window, 3 times bwe's
        recipes["m2s L1 + condition"] = changed(base, **m2s)
    return recipes


def variant_configs(base: TrainConfig) -> dict[str, TrainConfig]:
    return {
        f"{precision}{', compiled' if compiled else ''}": changed(base, precision=precision, compile=compiled)
        for precision in ("float32", "bfloat16")
        for compiled in (False, True)
    }


def train_rows(configs: Mapping[str, TrainConfig], plan: Plan) -> dict[str, list[Timing]]:
    return interleaved({name: training(config) for name, config in configs.items()}, plan)


def print_rows(title: str, configs: Mapping[str, TrainConfig], timings: Mapping[str, Sequence[Timing]]) -> None:
    """Medians; `of first` is the median of the rounds' ratios to the first row."""
    config, first = next(iter(configs.values())), next(iter(timings.values()))
    print(f"\n{title}: size {config.size}, batch {config.batch_size}")
    names = "".join(f"{name:>11}" for name in NAMES)
    print(f"{'':20}{'ms/step':>10}{'windows/s':>11}{'of first':>10}{names}{'hours':>10}")
    for name, values in timings.items():
        timing = middle(values)
        shares = "".join(f"{timing.share(phase):11.2%}" if timing.phases else f"{'-':>11}" for phase in NAMES)
        rate = f"{1e3 * timing.step:10.1f}{config.batch_size / timing.step:11,.1f}{ratio(values, first):10.2f}"
        print(f"{name:20}{rate}{shares}{paper_hours(configs[name], timing.step):10,.1f}")
    print(f"hours: of {PAPER_STEPS:,} steps of batch {PAPER_BATCH}, extrapolated from this rate", end="")
    print(f"; the paper's goal: under {PAPER_HOURS} on one H100" if config.device == "cuda" else "")


def paper_hours(config: TrainConfig, step: float) -> float:
    """Time for the paper's steps and batch if a window costs what it costs here."""
    return PAPER_STEPS * PAPER_BATCH * step / config.batch_size / 3600


if __name__ == "__main__":
    main()
