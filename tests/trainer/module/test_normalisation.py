"""Normalisation of latents: each stream by its own statistics, or all by mono's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reencoder_pipeline.cache.index import Statistics
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.latent_module import LatentModule, Output
from reencoder_trainer.module.normalisation import Normalisation, Scaling

M2S = get_task("m2s")
CHANNELS = 3
STATISTICS = {
    stream: Statistics(mean=np.full(CHANNELS, mean, np.float32), std=np.full(CHANNELS, std, np.float32))
    for stream, mean, std in (("mono", 0.5, 2.0), ("left", 1.0, 3.0), ("right", 0.0, 2.5))
}


def test_each_stream_has_its_own_or_all_have_monos() -> None:
    own, shared = (Normalisation.of_task(STATISTICS, M2S, shared=shared) for shared in (False, True))
    assert own.inputs.std.flatten().tolist() == shared.inputs.std.flatten().tolist() == [2.0] * 3
    assert own.targets.mean.flatten().tolist() == [1.0] * 3 + [0.0] * 3
    assert own.targets.std.flatten().tolist() == [3.0] * 3 + [2.5] * 3
    assert shared.targets.mean.flatten().tolist() == [0.5] * 6
    assert shared.targets.std.flatten().tolist() == [2.0] * 6


@pytest.mark.parametrize("output", ["residual", "difference"])
@pytest.mark.parametrize("shared", [False, True])
def test_an_output_that_starts_at_its_input_starts_at_the_mono_copy_only_where_it_is_shared(
    output: Output, shared: bool
) -> None:
    normalisation = Normalisation.of_task(STATISTICS, M2S, shared=shared)
    module = LatentModule(CHANNELS, 2 * CHANNELS, blocks=1, width=8, output=output)
    mono = torch.randn(1, CHANNELS, 5, generator=torch.Generator().manual_seed(0))
    estimate = normalisation.targets.undo(module(normalisation.inputs.apply(mono)))
    assert torch.allclose(estimate, mono.repeat(1, 2, 1), atol=1e-5) == shared


def test_a_channel_that_never_varies_keeps_its_scale() -> None:
    statistics = Statistics(mean=np.ones(1, np.float32), std=np.zeros(1, np.float32))
    scaling = Scaling.of_streams({"mono": statistics}, ["mono"])
    assert scaling.apply(torch.full((1, 1, 2), 3.0)).tolist() == [[[2.0, 2.0]]]
