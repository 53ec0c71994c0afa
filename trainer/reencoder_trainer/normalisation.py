"""Per-channel normalisation of latents: the module sees zero mean and unit deviation in every channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reencoder_pipeline.cache import Statistics
from reencoder_pipeline.tasks import Task


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of some streams, stacked along channels: each (C, 1) float32."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of_streams(cls, statistics: Mapping[str, Statistics], streams: Sequence[str]) -> Scaling:
        """A channel that never varies has deviation 0; it keeps its scale, so that it becomes zero and not NaN."""
        mean = torch.cat([torch.as_tensor(statistics[stream].mean) for stream in streams]).float()
        std = torch.cat([torch.as_tensor(statistics[stream].std) for stream in streams]).float()
        return cls(mean[:, None], torch.where(std > 0, std, 1.0)[:, None])

    @property
    def num_channels(self) -> int:
        return self.mean.shape[0]

    def to(self, device: torch.device | str) -> Scaling:
        return Scaling(self.mean.to(device), self.std.to(device))

    def apply(self, latents: Tensor) -> Tensor:
        """Raw latents (B, C, T) of any float type -> normalised float32."""
        return (latents.float() - self.mean) / self.std

    def undo(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T) -> raw float32."""
        return latents.float() * self.std + self.mean


@dataclass(frozen=True)
class Normalisation:
    """How a task's inputs and targets are scaled: each by its own streams' statistics over the training split."""

    inputs: Scaling
    targets: Scaling

    @classmethod
    def of_task(cls, statistics: Mapping[str, Statistics], task: Task) -> Normalisation:
        return cls(Scaling.of_streams(statistics, task.inputs), Scaling.of_streams(statistics, task.targets))

    def to(self, device: torch.device | str) -> Normalisation:
        return Normalisation(self.inputs.to(device), self.targets.to(device))
