"""Functions that a person could name for an autoencoder, and what is wrong with each of them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from reencoder_pipeline.errors import AutoencoderError

NOT_A_FUNCTION = {"a": 1}


def raises_key_error(device: str) -> Any:
    return {}[device]


def raises_type_error_inside(device: str) -> Any:
    return len(3)  # type: ignore[arg-type]


def leaves(device: str) -> Any:
    sys.exit(0)


def explains(device: str) -> Any:
    raise AutoencoderError("has its own message", remedy="read it")


def takes_nothing() -> Any:
    raise AssertionError("is not called")


def takes_two(device: str, other: str) -> Any:
    raise AssertionError("is not called")


def takes_a_keyword(device: str, *, other: str) -> Any:
    raise AssertionError("is not called")


def gives_none(device: str) -> None:
    return None


def gives_text(device: str) -> str:
    return device


def gives_half(device: str) -> Any:
    return SimpleNamespace(spec=None, context=0, local=True, licence="", encode=None, decode=None)


def refuses(*, weights: object, device: str) -> Any:
    raise ValueError(f"{weights} on {device}")
