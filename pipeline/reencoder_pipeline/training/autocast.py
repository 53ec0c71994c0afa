"""Decides whether matrix products run in bfloat16 (autocast): where the processor has it, else in float32."""

from __future__ import annotations

from typing import Literal

import torch

Autocast = Literal["auto", "float32", "bfloat16"]


def resolved(kind: Autocast, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 on CUDA and on processors with AVX512-BF16 or AMX, float32 on all others.

    A processor without them emulates bfloat16: a matrix product took 50 times as long as in float32 (AVX2), a training
    step 4 to 5 times.
    """
    if kind != "auto":
        return kind
    native = device.type == "cuda" or (device.type == "cpu" and multiplies_bfloat16())
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, kind: Autocast) -> torch.autocast:
    """Matrix products in bfloat16, if `kind` comes to that on this device."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=resolved(kind, device) == "bfloat16")


def multiplies_bfloat16() -> bool:
    """The processor has it, and oneDNN, which multiplies the matrices, may use it (ONEDNN_MAX_CPU_ISA forbids it)."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return native and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
