"""GFLOPs: the paper's numbers for its modules, and no trace left of counting."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_eval.metrics.flops import count_flops
from reencoder_eval.systems.system import count_pass
from reencoder_pipeline.autoencoders.vocos.autoencoder import VocosAutoencoder
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.latents import LatentSpec
from reencoder_trainer.module.latent_module import SIZES, LatentModule

FRAMES = 43
SECONDS = Fraction(FRAMES * 1024, 44100)
PLACES = (F, torch, torch.Tensor)


@pytest.mark.parametrize(("size", "gflops", "parameters"), [("S", 0.37, 4_295_232), ("M", 1.64, 19_077_952)])
def test_the_modules_cost_what_the_paper_says(size: str, gflops: float, parameters: int) -> None:
    module = LatentModule(64, 64, **SIZES[size]._asdict())
    count = count_flops(module, torch.zeros(1, 64, FRAMES), modules=[module], seconds=SECONDS)
    assert round(count.gflops, 2) == gflops
    assert count.parameters == parameters


def test_gflops_are_per_second_whatever_the_length_of_the_example() -> None:
    module = nn.Conv1d(8, 16, 1, bias=False)
    for frames in (10, 40):
        count = count_flops(module, torch.zeros(1, 8, frames), modules=[module], seconds=frames / 10)
        assert count.gflops == pytest.approx(2 * 8 * 16 * 10 / 1e9)


def test_an_autoencoder_is_counted_pass_by_pass() -> None:
    config = VocosConfig(n_fft=512, stft_hop=64, fine=(48, 96, 1), coarse=(64, 128, 1), latent_channels=8)
    model = Vocos(config).eval()
    autoencoder = VocosAutoencoder(model, LatentSpec("tiny", "0", 44_100, config.hop, 8))
    encode, decode = count_pass(autoencoder, "encode"), count_pass(autoencoder, "decode")
    assert encode.parameters == decode.parameters == sum(parameter.numel() for parameter in model.parameters())
    # Two FLOPs for each weight at each of its positions: the fine stage runs `stride` times as often as the rest.
    fine = 2 * sum(p.numel() for name, p in model.encoder.named_parameters() if name.startswith("fine"))
    coarse = 2 * sum(p.numel() for name, p in model.encoder.named_parameters() if not name.startswith("fine"))
    frames_per_second = 44_100 / config.hop
    assert encode.gflops == pytest.approx(frames_per_second * (config.stride * fine + coarse) / 1e9, rel=0.03)


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(4, 4, 1)

    def forward(self, latents: Tensor) -> Tensor:
        self.convolution(latents)
        raise RuntimeError("on purpose")


def test_a_failing_count_leaves_torch_as_it_was() -> None:
    good, example = nn.Conv1d(4, 4, 1, bias=False), torch.zeros(1, 4, 10)
    before = [dict(vars(place)) for place in PLACES]
    expected = count_flops(good, example, modules=[good], seconds=1)
    failing = Failing()
    with pytest.raises(EvaluationError, match="RuntimeError: on purpose"):
        count_flops(failing, example, modules=[failing], seconds=1)
    for place, functions in zip(PLACES, before, strict=True):
        assert {name for name in functions if vars(place).get(name) is not functions[name]} == set()
    assert set(vars(torch.Tensor)) == set(before[-1])
    assert count_flops(good, example, modules=[good], seconds=1) == expected


def test_counting_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Dropout()).train()
    attributes = [set(vars(part)) for part in module.modules()]
    count_flops(module, torch.zeros(1, 4, 10), modules=[module], seconds=1)
    assert all(part.training for part in module.modules())
    assert [set(vars(part)) for part in module.modules()] == attributes
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_function_without_weights_cannot_be_counted() -> None:
    with pytest.raises(EvaluationError, match="no module with weights"):
        count_flops(torch.abs, torch.zeros(1, 4), modules=[], seconds=1)
