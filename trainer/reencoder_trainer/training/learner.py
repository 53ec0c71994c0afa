"""One update: of the module, of the condition's encoder with it, and of the discriminator against it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reencoder_pipeline.errors import TrainingError
from reencoder_pipeline.tasks import Task
from reencoder_pipeline.training.autocast import autocast
from reencoder_pipeline.training.ranks import Ranks
from reencoder_pipeline.training.state_file import load_optimizer
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.module.condition import ConditionEncoder, Posterior, coin_tosses, standard_normal
from reencoder_trainer.module.discriminator import LatentDiscriminator
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation
from reencoder_trainer.training.decoded_mel import DecodedMel
from reencoder_trainer.training.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    kl_divergence,
    level_loss,
    reconstruction_loss,
)
from reencoder_trainer.training.optimisation import gradient_norm, learning_rate, make_optimizer, move_average, set_rate
from reencoder_trainer.training.stopwatch import Stopwatch


class Estimator(nn.Module):
    """F_theta, and G_phi where there is a condition: what is trained jointly, as one module."""

    def __init__(self, module: LatentModule, encoder: ConditionEncoder | None) -> None:
        super().__init__()
        self.module, self.encoder = module, encoder

    def forward(self, inputs: Tensor, targets: Tensor, noise: Tensor | None) -> tuple[Tensor, Posterior | None]:
        """Normalised latents (B, C_in, T) and (B, C_out, T) -> estimate of the targets, and the condition's posterior

        `noise` (B, H) is equation 5's epsilon; None where there is no condition.
        """
        if self.encoder is None or noise is None:
            return self.module(inputs), None
        posterior = self.encoder(targets)
        return self.module(inputs, posterior.sample(noise)), posterior


class Learner:
    """All that changes in a training, and one `update` a step.

    `average` is the estimator that is validated and released: the moving average of the weights with `ema`, else the
    trained weights themselves. `mel` is there where losses.mel is set.
    """

    def __init__(
        self,
        estimator: Estimator,
        discriminator: LatentDiscriminator | None,
        *,
        config: TrainConfig,
        task: Task,
        normalisation: Normalisation,
        mel: DecodedMel | None,
        ranks: Ranks,
        stopwatch: Stopwatch,
    ) -> None:
        self.config, self.task, self.normalisation, self.ranks = config, task, normalisation, ranks
        self.estimator, self.discriminator, self.mel = estimator, discriminator, mel
        self.average = copy.deepcopy(estimator) if config.ema else estimator
        self.optimizer = make_optimizer(estimator, weight_decay=config.weight_decay)
        self.stopwatch = stopwatch
        if config.compile:
            for part in (estimator, discriminator):
                if part is not None:
                    part.compile()
        self._parallel = ranks.parallel(estimator)
        if discriminator is not None:
            self.discriminator_optimizer = make_optimizer(discriminator, weight_decay=config.weight_decay)
            self._parallel_discriminator = ranks.parallel(discriminator)

    def update(self, batch: Mapping[str, Tensor], step: int, *, where: str) -> dict[str, float]:
        """Learn from this rank's raw windows of global batch `step`; returns the terms, averaged over ranks.

        The discriminator learns first and the module sees the one that has learnt, as in DAC. TrainingError, at `where`
        and before the update it would spoil, if a loss or a gradient is not finite. Both are the same on every rank, so
        that all of them stop.
        """
        with self.stopwatch.phase("compute"):
            inputs, targets = self.windows(batch, swapped=self._swapped(step))
            with autocast(inputs.device, self.config.precision):
                estimate, posterior = self._parallel(inputs, targets, self._noise(step))
        judged = self._update_discriminator(targets, estimate.detach(), step, batch, where=where)
        with self.stopwatch.phase("compute"):
            terms = self._terms(estimate, targets, posterior)
            weights = self._weights(step)
            loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = gradient_norm(self.estimator, max_norm=self.config.max_grad_norm)
            values = self._finite({"loss": loss, "grad_norm": norm, **terms}, batch, where=where)
        with self.stopwatch.phase("optimizer"):
            rate = self._rate(step, peak=self.config.lr, warmup_steps=self.config.warmup_steps)
            set_rate(self.optimizer, rate)
            self.optimizer.step()
            if self.average is not self.estimator:
                move_average(self.average, self.estimator, decay=self.config.ema, step=step)
        # A single term is its own loss, up to its weight.
        shown = values if len(terms) > 1 else {name: value for name, value in values.items() if name != "loss"}
        return {"l1": values["l1"], **shown, "lr": rate, **judged}

    def windows(self, batch: Mapping[str, Tensor], *, swapped: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Raw windows (B, T, C) of each stream -> normalised inputs and targets (B, C of all, T) on the device.

        `swapped` (B,) says in which items the two targets take each other's place.
        """
        device = self.ranks.device
        inputs, targets = (stacked(batch, names, device) for names in (self.task.inputs, self.task.targets))
        if swapped is not None:
            exchanged = torch.cat(targets.chunk(2, dim=1)[::-1], dim=1)
            targets = torch.where(swapped[:, None, None], exchanged, targets)
        return self.normalisation.inputs.apply(inputs), self.normalisation.targets.apply(targets)

    def _weights(self, step: int) -> dict[str, float]:
        losses, warmup_steps = self.config.losses, self.config.condition.kl_warmup_steps
        grown = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        return losses.model_dump() | {"l1": losses.reconstruction, "kl": grown * losses.kl}

    def _noise(self, step: int) -> Tensor | None:
        encoder = self.estimator.encoder
        if encoder is None:
            return None
        channels, seed = encoder.condition_channels, self.config.seed
        return self._share(standard_normal(self.config.batch_size, channels, seed=seed, step=step))

    def _swapped(self, step: int) -> Tensor | None:
        if not self.config.swap_left_right:
            return None
        return self._share(coin_tosses(self.config.batch_size, seed=self.config.seed, step=step))

    def _share(self, drawn: Tensor) -> Tensor:
        """A drawing for the global batch -> the share of this rank, on its device."""
        share = self.config.batch_size // self.ranks.world_size
        return drawn[self.ranks.rank * share :][:share].to(self.ranks.device)

    def _terms(self, estimate: Tensor, targets: Tensor, posterior: Posterior | None) -> dict[str, Tensor]:
        terms = {"l1": reconstruction_loss(estimate, targets)}
        if posterior is not None:
            terms["kl"] = kl_divergence(posterior)
        if self.config.losses.level:
            terms["level"] = level_loss(estimate, targets, streams=len(self.task.targets))
        if self.mel is not None:
            decoded = slice(-(-(self.config.mel_windows or self.config.batch_size) // self.ranks.world_size))
            terms["mel"] = self.mel(estimate[decoded].float(), targets[decoded])
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)  # its weights' gradients would be computed for nothing
            with autocast(targets.device, self.config.precision):
                fake = self.discriminator(estimate.float())
                if self.config.losses.feature_matching:
                    with torch.no_grad():
                        real = self.discriminator(targets)
                    # The maps before the scores: those of estimates lie around 0, and a ratio to them says nothing.
                    terms["feature_matching"] = feature_matching_loss(
                        fake[:-1], real[:-1], through_denominator=self.config.discriminator.through_denominator
                    )
            if self.config.losses.adversarial:
                terms["adversarial"] = adversarial_loss(fake[-1])
            self.discriminator.requires_grad_(True)
        return terms

    def _update_discriminator(
        self, targets: Tensor, estimate: Tensor, step: int, batch: Mapping[str, Tensor], *, where: str
    ) -> dict[str, float]:
        if self.discriminator is None:
            return {}
        with self.stopwatch.phase("compute"):
            with autocast(targets.device, self.config.precision):
                # One call for both: DistributedDataParallel allows one forward before a backward.
                scores = self._parallel_discriminator(torch.cat([targets, estimate.float()]))[-1]
            real, fake = scores.float().chunk(2)
            loss = discriminator_loss(real, fake)
            self.discriminator_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = gradient_norm(self.discriminator, max_norm=self.config.max_grad_norm)
            terms = {"loss": loss, "grad_norm": norm, "target_score": real.mean(), "estimate_score": fake.mean()}
            values = self._finite(terms, batch, where=where)
        with self.stopwatch.phase("optimizer"):
            config = self.config.discriminator
            rate = self._rate(step, peak=config.lr, warmup_steps=config.warmup_steps)
            set_rate(self.discriminator_optimizer, rate)
            self.discriminator_optimizer.step()
        return {f"discriminator_{name}": value for name, value in {**values, "lr": rate}.items()}

    def _rate(self, step: int, *, peak: float, warmup_steps: int) -> float:
        return learning_rate(
            step, peak=peak, warmup_steps=warmup_steps, schedule=self.config.schedule, steps=self.config.steps
        )

    def _finite(self, values: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, where: str) -> dict[str, float]:
        """Means over ranks, in one transfer from the device; TrainingError if one is not finite."""
        means = self.ranks.mean(torch.stack([value.detach().float() for value in values.values()])).tolist()
        named = dict(zip(values, means, strict=True))
        if not all(map(math.isfinite, means)):
            bad = [s for s in self.task.streams if self.ranks.any(not bool(torch.isfinite(batch[s]).all()))]
            text = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
            raise TrainingError(
                "the loss or its gradient is not finite",
                where=where,
                value=f"{text}; latents that are not finite in: {', '.join(bad) or 'no stream'}",
                remedy="run `reencoder-cache verify` on the cache" if bad else "lower lr or raise warmup_steps",
            )
        return named

    def state(self) -> dict[str, dict[str, Any]]:
        """Weights and optimisers by name, for load_state."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state(self, state: Mapping[str, dict[str, Any]]) -> None:
        for name, part in self._parts().items():
            if isinstance(part, torch.optim.Optimizer):
                load_optimizer(part, state[name])
            else:
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"estimator": self.estimator, "optimizer": self.optimizer}
        if self.average is not self.estimator:
            parts["average"] = self.average
        if self.discriminator is not None:
            parts |= {"discriminator": self.discriminator, "discriminator_optimizer": self.discriminator_optimizer}
        return parts


def stacked(batch: Mapping[str, Tensor], streams: Sequence[str], device: torch.device) -> Tensor:
    """Raw windows (B, T, C) of each stream -> raw latents (B, C of all, T) on `device`.

    What travels to the device is the cache's float16; widening and transposing are its work, the CPU is slow at both.
    """
    windows = torch.cat([batch[stream].to(device, non_blocking=True) for stream in streams], dim=2)
    return windows.transpose(1, 2)  # (B, T, C) -> (B, C, T)
