"""Lost files: the index is made again from the commit records, and whatever else is gone is built again."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from scene import EITHER_STORAGE, Tally, scene

from reencoder_pipeline.cache.open_cache import open_cache


def lost(storage: str, *, trials: int, seed: int) -> Tally:
    """Some files, or folders with all that is in them, of a finished cache."""
    here, dice, tally = scene(), random.Random(seed), Tally("files lost", storage)
    for _ in range(trials):
        with here.copy(storage) as out:
            names = dice.sample(sorted(here.whole[storage]), dice.choice([1, 1, 2, 5, 20 if storage == "zarr" else 8]))
            for name in names:
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
            tally.note(here.problems_after_resuming(out, storage), trial=names)
    return tally


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_lost_files_are_made_again(storage: str) -> None:
    tally = lost(storage, trials=5, seed=0)
    assert (tally.wrong, tally.recovered) == ([], 5)


@pytest.mark.parametrize("name", ["index.json", "settings.json", "failures.jsonl"])
def test_the_index_is_made_from_the_records(name: str) -> None:
    """Nothing is encoded for it."""
    with scene().copy("zarr") as out:
        (out / name).unlink()
        ended = scene().build(out, "zarr")
        assert (ended.built, ended.kept) == (0, len(open_cache(out).shards))
        assert scene().differences(out, "zarr") == []


def test_a_lost_record_costs_its_shard_alone() -> None:
    with scene().copy("zarr") as out:
        records = sorted(Path(out / "shards").glob("*.json"))
        records[1].unlink()
        ended = scene().build(out, "zarr")
        assert (ended.built, ended.kept) == (1, len(records) - 1)
        assert scene().differences(out, "zarr") == []
