"""One process among several: what torchrun's environment says, and what ranks do together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reencoder_pipeline.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `world_size`, computing on `device`. Rank 0 alone writes and speaks."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over all ranks, the same on each of them."""
        if self.world_size == 1:
            return values
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values / self.world_size

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on some rank; only so do all ranks stop after the same step."""
        return flag if self.world_size == 1 else self.mean(torch.tensor(float(flag), device=self.device)).item() > 0

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over ranks; itself where there is one rank."""
        if self.world_size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)


def device_named(name: str) -> str:
    """cuda or cpu; auto is CUDA where there is one. ConfigError for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigError("unknown device", where="device", value=name, remedy="one of: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("this torch sees no CUDA device", where="device", value=name, remedy="use auto or cpu")
    return name


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment, if any, and leave it at the end.

    `device` is "auto", "cpu" or "cuda"; with several GPUs each rank takes the one of its local rank.
    """
    device = device_named(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device("cpu")
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if world_size == 1:
        yield Ranks(0, 1, where)
        return
    torch.distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), world_size, where)
        # Rank 0 still validates and saves when the others are done; one that left early could tear down the group.
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
