"""A tiny AERO with weights from a formula."""

from __future__ import annotations

import pytest

from reencoder_eval.baselines.aero.model import Aero
from tiny_aero import TINY, patterned


@pytest.fixture(scope="session")
def tiny() -> Aero:
    """Not to be changed."""
    model = Aero(TINY)
    model.load_state_dict(patterned(model.state_dict()))
    return model.eval().requires_grad_(False)
