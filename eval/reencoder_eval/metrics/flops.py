"""Counts GFLOPs per second of audio with calflops, as the paper does: 2 FLOPs per multiply-add.

calflops counts Fourier transforms, `x @ y` and fused attention as 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from reencoder_pipeline.errors import EvaluationError


@dataclass(frozen=True)
class FlopCount:
    """GFLOPs per second of audio; `note` says what else a reader of the number must know."""

    gflops: float
    parameters: int
    note: str | None = None


def count_flops(
    function: Callable[[Tensor], Tensor], example: Tensor, *, modules: Sequence[nn.Module], seconds: float | Fraction
) -> FlopCount:
    """Count one call of `function(example)`, where `example` stands for `seconds` of audio.

    `modules` hold the weights that the function uses. calflops hooks modules, patches torch.nn.functional and switches
    the model to eval mode, so the count works on a copy and undoes the patches. EvaluationError if `function` fails.
    """
    remedy = "leave the system out, or read its cost as unknown"
    if not any(True for module in modules for _ in module.parameters()):
        value = "no module with weights was found"
        raise EvaluationError("the FLOPs of this system cannot be counted", value=value, remedy=remedy)
    try:
        forward = copy.deepcopy(_Forward(function, modules))  # one copy: the function's weights stay those in `modules`
        flops = _by_calflops(forward, example)
    except Exception as error:  # calflops fails in many ways on what it does not know, none of them its own
        value = f"{type(error).__name__}: {error}"
        raise EvaluationError("the FLOPs of this system cannot be counted", value=value, remedy=remedy) from error
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    return FlopCount(flops / float(seconds) / 1e9, parameters)


class _Forward(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.call = (function,)  # in a tuple: a module assigned as it is would be a second child and be counted twice

    @torch.no_grad()
    def forward(self, example: Tensor) -> Tensor:
        return self.call[0](example)


def _by_calflops(forward: nn.Module, example: Tensor) -> int:
    from calflops import calculate_flops
    from calflops.calculate_pipline import module_flop_count, module_mac_count

    with _unpatched_afterwards():
        try:
            flops, _, _ = calculate_flops(forward, args=[example], print_results=False, output_as_string=False)
        finally:
            module_flop_count.clear()  # left full by a failing call, these two lists would skew the next one
            module_mac_count.clear()
    return int(flops)


@contextmanager
def _unpatched_afterwards() -> Iterator[None]:
    """Put back the functions that calflops replaced: after an exception it leaves them, and later counts double."""
    places = (torch.nn.functional, torch, torch.Tensor)
    before = [dict(vars(place)) for place in places]
    try:
        yield
    finally:
        for place, functions in zip(places, before, strict=True):
            for name, function in functions.items():
                if vars(place).get(name) is not function:
                    setattr(place, name, function)
        for name in set(vars(torch.Tensor)) - set(before[-1]):
            delattr(torch.Tensor, name)  # methods that Tensor inherits, put in front of the originals
