"""What a second of audio costs: GFLOPs by calflops, as the paper reports them, with torch's own counter beside it.

FLOPs are 2 per multiply-add. Neither counter sees an FFT. calflops counts `x @ y` and fused attention as 0, torch's
counter recurrent layers and everything elementwise; where the two differ by more than 5 % the count says why.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from reencoder_pipeline.errors import EvaluationError

NOTEWORTHY = 0.05


@dataclass(frozen=True)
class FlopCount:
    """GFLOPs per second of audio by either counter; `note` explains a difference of more than 5 %."""

    gflops: float
    gflops_torch: float
    parameters: int
    note: str | None


def count_flops(
    function: Callable[[Tensor], Tensor], example: Tensor, *, modules: Sequence[nn.Module], seconds: float | Fraction
) -> FlopCount:
    """Count one call of `function(example)`, where `example` stands for `seconds` of audio.

    `modules` hold the weights that the function uses. calflops hooks modules, patches torch.nn.functional and puts the
    model into eval mode; it works on a copy here, and the patches are undone even when the function fails, which is an
    EvaluationError.
    """
    if not any(True for module in modules for _ in module.parameters()):
        raise EvaluationError("its FLOPs cannot be counted", value="no module with weights was found")
    try:
        forward = copy.deepcopy(_Forward(function, modules))  # one copy: the function's weights stay those in `modules`
        by_calflops = _by_calflops(forward, example) / float(seconds)
        by_torch = _by_torch(forward, example) / float(seconds)
    except Exception as error:  # calflops fails in many ways on what it does not know, none of them its own
        raise EvaluationError("its FLOPs cannot be counted", value=f"{type(error).__name__}: {error}") from error
    return FlopCount(
        gflops=by_calflops / 1e9,
        gflops_torch=by_torch / 1e9,
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
        note=_explain(by_calflops, by_torch, modules),
    )


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
    """Put back every function that calflops replaced: after an exception it leaves them, and doubles later counts."""
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


def _by_torch(forward: nn.Module, example: Tensor) -> int:
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it announces that triton is absent
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The fused attention of the CPU counts as 0; its plain form is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(example)
    return counter.get_total_flops()


def _explain(by_calflops: float, by_torch: float, modules: Sequence[nn.Module]) -> str | None:
    if abs(by_calflops - by_torch) <= NOTEWORTHY * max(by_calflops, by_torch):
        return None
    difference = f"calflops {by_calflops / 1e9:.3g}, torch {by_torch / 1e9:.3g} GFLOPs per second"
    if by_torch > by_calflops:
        return f"{difference}: calflops counts `x @ y` and fused attention as 0"
    if any(isinstance(part, nn.RNNBase) for module in modules for part in module.modules()):
        return f"{difference}: torch's counter counts recurrent layers as 0"
    return f"{difference}: torch's counter counts no elementwise work (activations, norms, biases)"
