"""The settings that a place was begun with: written once, and compared with those of each later command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.own_folder import LARGEST_MARK
from reencoder_pipeline.stores.settings_file import SETTINGS, begin_with, changes, require_begun_with
from reencoder_pipeline.stores.store import open_store


def test_settings_are_written_once_and_must_stay(tmp_path: Path) -> None:
    store, settings = open_store(tmp_path / "out"), {"format": "zarr", "streams": ("mono",)}
    assert not require_begun_with(store, settings)
    assert not (tmp_path / "out").exists()
    begin_with(store, settings)
    begin_with(store, settings)
    assert json.loads((tmp_path / "out" / SETTINGS).read_text()) == {"format": "zarr", "streams": ["mono"]}
    with pytest.raises(CacheError, match="begun with other settings\n  found: format: 'zarr' then, 'webdataset' now"):
        begin_with(store, {**settings, "format": "webdataset"})
    for one, other in (({}, {"hours": 1}), ({"hours": 1}, {})):
        assert changes(one, other) == f"hours: {one.get('hours')} then, {other.get('hours')} now"
    assert changes({"steps": 1, "lr": 2}, {"steps": 3, "lr": 2}, may_change={"steps"}) == ""


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 10_000, '{"a": "' + "b" * LARGEST_MARK + '"}'])
def test_a_damaged_file_is_named_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / SETTINGS).write_text(content)
    with pytest.raises(CacheError, match=r"settings\.json: the settings file is damaged") as caught:
        begin_with(open_store(tmp_path), {})
    assert "delete it" in str(caught.value)
    assert (tmp_path / SETTINGS).read_text() == content
