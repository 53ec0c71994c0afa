"""Claims as builders of other machines hold them."""

from __future__ import annotations

from typing import Any

import pytest

from encode_here import noting_what_is_encoded, wait_until  # noqa: F401, a fixture
from reencoder_pipeline.shards import claims
from reencoder_pipeline.shards.claims import take
from reencoder_pipeline.stores.store import Store

BUILDER_ELSEWHERE = f"{7:016x}.builder"
ELSEWHERE = "e15e3e4e-7-7"  # a process of another machine


def take_as(somebody: str, store: Store, name: str, **settings: Any) -> claims.Claim:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "owner", lambda: somebody)
        claim = take(store, name, **{"lease": 60.0, **settings})
    assert claim is not None
    return claim
