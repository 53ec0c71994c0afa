"""Updates the autoencoder (and its adversary) and its moving average; computes the learning rate of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reencoder_pipeline.audio.mel import RESOLUTIONS, mel_filterbanks
from reencoder_pipeline.autoencoders.vocos.model import Vocos, mixtures
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.autoencoders.vocos.training.adversary import Adversary, discriminator_loss, generator_losses
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.autoencoders.vocos.training.losses import (
    kl_divergence,
    reconstruction_losses,
    waveform_distance,
)
from reencoder_pipeline.errors import TrainingError
from reencoder_pipeline.training.autocast import autocast
from reencoder_pipeline.training.ranks import Ranks
from reencoder_pipeline.training.state_file import load_optimizer


class Trainer:
    """All that changes in a training: model, moving average, adversary and the optimisers of both; one `update` a step.

    Everything random in a step is a pure function of (seed, step), for the global batch whatever the number of ranks.
    """

    def __init__(self, shape: VocosConfig, config: AutoencoderTrainConfig, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        self.weights = config.losses
        torch.manual_seed(config.seed)
        self.model = Vocos(shape).to(ranks.device)
        self.average = Vocos(shape).to(ranks.device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = _optimizer(self.model, lr=config.lr)
        self.filterbanks = mel_filterbanks(shape.sample_rate, device=ranks.device)
        self.adversary = self.adversary_optimizer = None
        if config.adversary.weight:
            self.adversary = Adversary(
                fft_sizes=config.adversary.fft_sizes, periods=config.adversary.periods, filters=config.adversary.filters
            ).to(ranks.device)
            self.adversary_optimizer = _optimizer(self.adversary, lr=config.adversary.lr)
            self.parallel_adversary = ranks.parallel(self.adversary)
        if config.compile:
            # Stages only: the spectral front and back end hold complex numbers, which do not compile.
            for half in (self.model.encoder, self.model.decoder):
                half.fine.compile()
                half.coarse.compile()
        self.parallel = ranks.parallel(self.model)

    def update(self, audio: Tensor, step: int, *, where: str) -> dict[str, float]:
        """This rank's audio (B, 1, L) -> the loss terms of the step, averaged over ranks.

        TrainingError at `where`, before anything changes, if a loss or a gradient is not finite.
        """
        config, (rank, world_size) = self.config, (self.ranks.rank, self.ranks.world_size)
        audio = audio.to(self.ranks.device)
        rng = np.random.default_rng((config.seed, 1, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = [RESOLUTIONS[i] for i in rng.choice(len(RESOLUTIONS), config.resolutions_per_step, replace=False)]
        latent_shape = (self.model.config.latent_channels, audio.shape[-1] // self.model.config.hop)
        noise = torch.randn(config.batch_size, *latent_shape, generator=generator)[rank::world_size]
        pairs = len(audio) // 2 if self.weights.mixing else 0
        shares = torch.rand(config.batch_size, generator=generator)[rank::world_size][:pairs]
        noise, shares = noise.to(audio.device), shares.to(audio.device)

        with autocast(audio.device, self.config.precision):
            decoded, mean, log_variance = self.parallel(audio, noise, shares)
        estimate, mixed = decoded.split([len(audio), pairs])
        losses = self._distances(estimate, audio, chosen)
        losses["kl"] = kl_divergence(mean, log_variance, free_nats=self.weights.free_nats)
        if pairs:
            losses["mixing"] = self._weighted(self._distances(mixed, mixtures(audio, shares), chosen))
        total = self._weighted(losses)
        adversary_terms: dict[str, float] = {}
        if self.adversary is not None and step >= config.adversary.from_step:
            adversary_terms["adversary"] = self._update_adversary(audio, estimate.detach())
            with autocast(audio.device, self.config.precision):
                fooled, features = generator_losses(self.adversary(audio), self.adversary(estimate))
            total = total + config.adversary.weight * fooled + config.adversary.features * features
            losses |= {"fooled": fooled, "features": features}

        self._require_finite(total, losses, where=where)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self._require_finite(norm, losses, where=where)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self.optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1.0 - decay)
        values = torch.stack([value.detach() for value in (total, norm, *losses.values())])
        return (
            dict(zip(("loss", "grad_norm", *losses), self.ranks.mean(values).tolist(), strict=True)) | adversary_terms
        )

    def state(self) -> dict[str, Any]:
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        if self.adversary is not None and self.adversary_optimizer is not None:
            parts |= {"adversary": self.adversary, "adversary_optimizer": self.adversary_optimizer}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.adversary is not None and self.adversary_optimizer is not None:
            self.adversary.load_state_dict(state["adversary"])
            load_optimizer(self.adversary_optimizer, state["adversary_optimizer"])

    def _distances(
        self, estimate: Tensor, reference: Tensor, resolutions: list[tuple[int, int, int]]
    ) -> dict[str, Tensor]:
        losses = reconstruction_losses(
            estimate[:, 0], reference[:, 0], resolutions=resolutions, filterbanks=self.filterbanks
        )
        return losses | {"waveform": waveform_distance(estimate, reference)}

    def _weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()

    def _update_adversary(self, real: Tensor, fake: Tensor) -> float:
        assert self.adversary_optimizer is not None
        with autocast(real.device, self.config.precision):
            # One call for both: DistributedDataParallel allows one forward before a backward.
            judged = self.parallel_adversary(torch.cat([real, fake]))
        halves = [(logits.float().chunk(2), [layer.chunk(2) for layer in seen]) for logits, seen in judged]
        real_side, fake_side = (
            [(logits[side], [layer[side] for layer in seen]) for logits, seen in halves] for side in (0, 1)
        )
        loss = discriminator_loss(real_side, fake_side)
        self.adversary_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parallel_adversary.parameters(), self.config.clip)
        self.adversary_optimizer.step()
        return loss.item()

    def _require_finite(self, value: Tensor, losses: dict[str, Tensor], *, where: str) -> None:
        if self.ranks.any(not bool(torch.isfinite(value))):
            values = {name: float(loss) for name, loss in losses.items()}
            raise TrainingError(
                "the loss or its gradient is not finite; nothing was updated", where=where, value=values,
                remedy="lower lr or raise warmup_steps",
            )  # fmt: skip


def learning_rate(step: int, config: AutoencoderTrainConfig) -> float:
    """Linear warm-up, constant, linear decay to a fiftieth over the last `decay_steps`."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = min(1.0, (config.steps - step) / max(1, config.decay_steps))
    return config.lr * warm * max(0.02, left)


def _optimizer(module: nn.Module, *, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.8, 0.99), weight_decay=1e-3, fused=True)
