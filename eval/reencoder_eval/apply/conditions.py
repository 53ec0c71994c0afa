"""Chooses the conditions of an upmix: neutral, random by a seed, like a reference, or between."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from reencoder_eval.apply.decision import MONO_DB
from reencoder_eval.apply.files.reading import opened
from reencoder_eval.apply.files.scratch import resampled
from reencoder_eval.apply.segments import encoded
from reencoder_pipeline.autoencoder import Autoencoder
from reencoder_pipeline.encoding.segments import plan_segments
from reencoder_pipeline.errors import AudioError, ConfigError
from reencoder_trainer.module.condition import interpolated
from reencoder_trainer.trained_module import TrainedModule


class Variant(NamedTuple):
    """`name` is what its file's name gets: empty where there is one output alone."""

    name: str
    condition: Tensor | None


def variants_of(
    trained: TrainedModule, *, seed: int | None, variants: int, oracle: Tensor | None, share: float | None
) -> tuple[Variant, ...]:
    """Variant n has the prior's condition for `seed` + n; without a seed and for one output it is the prior's mean, 0.

    With `oracle` (1, H), of a reference, the condition is `share` (1 if None) of the way from there to it: the paper's
    lambda. ConfigError for wishes that cannot be met: a module without condition, or variants that would be alike.
    """
    if trained.encoder is None:
        if seed is not None or variants > 1 or oracle is not None or share is not None:
            remedy = "use a module that was trained with one (m2s_m.yaml), or leave out those options"
            raise ConfigError(
                "this module takes no condition", where="--seed, --variants, --like, --lambda", remedy=remedy
            )
        return (Variant("", None),)
    if share is not None and oracle is None:
        raise ConfigError("--lambda needs a reference", where="--lambda", value=share, remedy="add --like FILE")
    share = 1.0 if share is None else share
    if variants > 1 and oracle is not None and share == 1:
        remedy = "give a --lambda below 1, such as 0.5"
        raise ConfigError("all variants would be alike: nothing of them is random", where="--variants", remedy=remedy)
    if seed is None and variants == 1:
        start = {"": torch.zeros(1, trained.module.condition_channels)}
    else:
        seeds = range(seed or 0, (seed or 0) + variants)
        names = variant_names(seed=seed, variants=variants)
        start = {name: trained.prior(1, seed=one) for name, one in zip(names, seeds, strict=True)}
    if oracle is not None:
        start = {name: interpolated(oracle, prior.to(oracle.device), share=share) for name, prior in start.items()}
    return tuple(Variant(name, condition) for name, condition in start.items())


def variant_names(*, seed: int | None, variants: int) -> list[str]:
    """The suffix that each variant adds to an output's name."""
    return [f"_seed{one}" for one in range(seed or 0, (seed or 0) + variants)] if variants > 1 else [""]


def condition_like(
    path: Path, trained: TrainedModule, autoencoder: Autoencoder, *, device: str, folder: Path
) -> Tensor:
    """(1, H): the posterior's mean for a stereo recording, averaged over windows as long as those of training."""
    spec = trained.spec
    with opened(path, folder=folder) as sound:
        if sound.audio.width != 2 or sound.survey.side_mid_db <= MONO_DB or sound.survey.is_one_signal:
            value = f"{sound.audio.width} channel(s), side {sound.survey.side_mid_db:+.0f} dB against mid"
            raise AudioError(
                "the reference is not stereo", where=path, value=value, remedy="give a true stereo recording"
            )
        same = sound.rate == spec.sample_rate
        latents = encoded(
            autoencoder,
            sound.audio if same else resampled(sound.audio, sound.rate, spec.sample_rate),
            device=device,
        )
    means = []
    for segment in plan_segments(len(latents), segment_frames=trained.window, context=0):
        piece = torch.from_numpy(latents.read(segment.start, segment.stop).copy())[None]
        means.append(trained.posterior(piece.to(device)).mean)
    return torch.stack(means).mean(dim=0)
