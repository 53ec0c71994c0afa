"""Computes how far a stack of convolutions sees, exactly, from its kernels, strides, dilations and paddings."""

from __future__ import annotations

from torch import nn


def convolutional_context(encoder: nn.Module, decoder: nn.Module, *, hop: int) -> int:
    """Frames at each edge of a piece that differ from those of the whole track, in encoding or in decoding.

    Both must register their convolutions in the order of application. Shortcuts of residual units can be ignored: they
    see less than the convolutions.
    """
    first, last = _inputs(encoder, 0, 0)  # the samples that frame 0 depends on; its own are 0 to hop - 1
    seen_by_encoder = max(-(first // hop), -(-(last - hop + 1) // hop))
    first, last = _inputs(decoder, 0, hop - 1)  # the frames that the samples of frame 0 depend on
    return max(0, seen_by_encoder, -first, last)


def _inputs(stack: nn.Module, first: int, last: int) -> tuple[int, int]:
    """The range of inputs that the outputs `first` to `last` depend on."""
    convolutions = [module for module in stack.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]
    for module in reversed(convolutions):
        assert isinstance(module.padding, tuple)
        (stride,), (padding,) = module.stride, module.padding
        reach = module.dilation[0] * (module.kernel_size[0] - 1)
        if isinstance(module, nn.ConvTranspose1d):
            first, last = -((reach - first - padding) // stride), (last + padding) // stride
        else:
            first, last = first * stride - padding, last * stride - padding + reach
    return first, last
