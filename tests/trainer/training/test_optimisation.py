"""AdamW's first update, the rate of a step, the average of weights, and the norm of gradients, all by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from reencoder_trainer.training.optimisation import (
    Schedule,
    gradient_norm,
    learning_rate,
    make_optimizer,
    move_average,
    set_rate,
)


def rate(step: int, schedule: Schedule = "constant", *, warmup_steps: int = 4) -> float:
    return learning_rate(step, peak=0.5, warmup_steps=warmup_steps, schedule=schedule, steps=100)


def linear(weights: list[float], *, gradients: list[float] | None = None) -> nn.Linear:
    """One row of weights, no bias."""
    module = nn.Linear(len(weights), 1, bias=False)
    module.weight.data = torch.tensor([weights])
    if gradients is not None:
        module.weight.grad = torch.tensor([gradients])
    return module


def test_warm_up_is_linear_and_its_first_update_moves() -> None:
    assert [rate(step) for step in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert rate(99) == 0.5
    assert rate(0, warmup_steps=0) == 0.5


def test_cosine_falls_to_nothing() -> None:
    rates = [rate(step, "cosine") for step in range(100)]
    assert rates[25] == pytest.approx(0.5 * (1 + math.sqrt(0.5)) / 2)
    assert rates[50] == pytest.approx(0.25)
    assert 0 < rates[99] < 0.001
    assert all(one > following for one, following in pairwise(rates[3:])), "after the warm-up"
    # Halfway through both: a warm-up of 100 is at 51 / 100, the cosine at a half.
    assert rate(50, "cosine", warmup_steps=100) == pytest.approx(0.5 * 0.51 * 0.5)


def test_set_rate_sets_every_group() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 0.1}], lr=0.2)
    set_rate(optimizer, 0.03)
    assert [group["lr"] for group in optimizer.param_groups] == [0.03, 0.03]


def test_the_first_update_of_adamw() -> None:
    module = linear([2.0, -2.0], gradients=[30.0, 0.001])
    optimizer = make_optimizer(module, weight_decay=0.1)
    set_rate(optimizer, 0.01)
    optimizer.step()
    # Decay is decoupled, rate * 0.1 * weight; the first step is the rate against the gradient, whatever its size.
    expected = [2.0 - 0.002 - 0.01, -2.0 + 0.002 - 0.01]
    assert module.weight[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("step", "kept"),
    [(0, 0.1), (10, 11 / 20), (10_000, 0.9)],  # (1 + step) / (10 + step), until the decay that was asked for
)
def test_an_average_forgets_its_start_at_first(step: int, kept: float) -> None:
    average, module = linear([1.0, 0.0]), linear([0.0, 4.0])
    move_average(average, module, decay=0.9, step=step)
    assert average.weight[0].tolist() == pytest.approx([kept, (1 - kept) * 4])
    assert module.weight[0].tolist() == [0.0, 4.0]
    assert average.weight.requires_grad
    assert average.weight.grad_fn is None


def test_an_average_covers_every_parameter() -> None:
    average, module = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2))
    expected = [0.1 * a + 0.9 * m for a, m in zip(average.parameters(), module.parameters(), strict=True)]
    move_average(average, module, decay=0.999, step=0)
    for found, one in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(found, one)


@pytest.mark.parametrize(
    ("max_norm", "scale"),
    [(None, 1.0), (20.0, 1.0), (1.3, 0.1)],  # without a limit, below it, and above
)
def test_the_norm_is_that_of_all_gradients_before_they_are_clipped(max_norm: float | None, scale: float) -> None:
    module = nn.Sequential(linear([0.0, 0.0], gradients=[3.0, -4.0]), linear([0.0], gradients=[12.0]), linear([1.0]))
    assert gradient_norm(module, max_norm=max_norm).item() == pytest.approx(13.0)  # 9 + 16 + 144 = 169
    gradients = [p.grad for p in module.parameters()]
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert gradients[2] is None, "it has none, and gets none"
    assert gradients[0][0].tolist() == pytest.approx([3.0 * scale, -4.0 * scale], rel=1e-5)
    assert gradients[1][0].tolist() == pytest.approx([12.0 * scale], rel=1e-5)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(max_norm: float | None) -> None:
    module = linear([0.0, 0.0], gradients=[1.0, math.inf])
    assert not math.isfinite(gradient_norm(module, max_norm=max_norm).item())
