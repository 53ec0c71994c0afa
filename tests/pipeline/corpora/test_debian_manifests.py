"""The lists of Debian music: splits without shared recordings, shares of both tasks, rows that agree."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import pytest

from debian_archive import lines
from reencoder_pipeline.audio.survey import Survey, suited_tasks
from reencoder_pipeline.corpora.debian_music import COLLECTIONS, manifest_path, track_path

ROWS, UNSEEN = (lines(manifest_path(collection)) for collection in COLLECTIONS)
SPLITS = ("train", "valid", "test")


def test_the_splits_are_those_that_others_have_trained_on() -> None:
    """A promise: a change of any track's split makes every trained module and every table incomparable."""
    told = "".join(f"{row['sha256']} {row['split']}\n" for row in sorted(ROWS, key=lambda row: row["sha256"]))
    assert (
        hashlib.sha256(told.encode()).hexdigest() == "bc4bd57811cd7d599c3984e92281fd08faa0dab375644858f3704f4d794ac30d"
    )


def test_no_group_and_no_recording_is_in_two_splits() -> None:
    assert all(count == 1 for key in ("id", "sha256") for count in Counter(row[key] for row in ROWS).values())
    assert all(
        len({row["split"] for row in ROWS if row["group"] == group}) == 1 for group in {row["group"] for row in ROWS}
    )
    assert {row["split"] for row in ROWS} == set(SPLITS)


@pytest.mark.parametrize(("task", "tolerance"), [("bwe", 0.01), ("m2s", 0.02)])
def test_every_split_has_its_share_of_both_tasks(task: str, tolerance: float) -> None:
    seconds = {
        split: sum(row["seconds"] for row in ROWS if row["split"] == split and task in row["tasks"]) for split in SPLITS
    }
    total = sum(seconds.values())
    assert seconds["train"] / total == pytest.approx(0.80, abs=tolerance)
    assert seconds["valid"] / total == pytest.approx(0.08, abs=tolerance)
    assert seconds["test"] / total == pytest.approx(0.12, abs=tolerance)
    test = [row for row in ROWS if row["split"] == "test" and task in row["tasks"]]
    assert len(test) >= 12
    assert len({row["package"] for row in test}) >= 4
    assert seconds["test"] > 3600


def test_music_that_nothing_is_trained_on_shares_neither_packages_nor_recordings_with_what_is() -> None:
    assert {row["split"] for row in UNSEEN} == {"test"}
    for key in ("package", "sha256", "id"):
        assert not {row[key] for row in UNSEEN} & {row[key] for row in ROWS}
    for task in ("bwe", "m2s"):
        chosen = [row for row in UNSEEN if task in row["tasks"]]
        assert len(chosen) >= 40
        assert len({row["package"] for row in chosen}) >= 5


@pytest.mark.parametrize("rows", [ROWS, UNSEEN], ids=["debian-music", "debian-unseen"])
def test_rows_agree_with_themselves(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["seconds"] == pytest.approx(row["num_samples"] / row["sample_rate"], abs=1e-3)
        assert row["licence"]
        assert row["id"].startswith(f"{row['package']}/")
        track_path(row)
        names = ("sample_rate", "num_samples", "num_channels", "bandwidth_hz", "side_mid_db")
        found = Survey(**{name: row[name] for name in names}, level_db=-20.0)
        assert list(suited_tasks(found)) == row["tasks"]
