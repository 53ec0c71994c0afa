"""Which tracks a build in this process encodes: a fixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.shards import make_shard


@pytest.fixture(name="encodes_here")
def noting_what_is_encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the tracks that were encoded, in order: copied ones are not among them."""
    ids, encode = list[str](), make_shard.encode_tracks

    def noted(autoencoder: Any, tracks: Sequence[Track], settings: EncodeSettings) -> Any:
        ids.extend(track.id for track in tracks)
        return encode(autoencoder, tracks, settings)

    monkeypatch.setattr(make_shard, "encode_tracks", noted)
    return ids
