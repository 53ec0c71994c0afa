"""Torn, truncated and zero-filled files: none is read as frames, and building again makes them whole."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import EITHER_STORAGE, Tally, scene

from reencoder_pipeline.cache.open_cache import open_cache, open_index
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import discard, verify_cache


def cuts(out: Path, dice: random.Random) -> list[tuple[Path, int, bool]]:
    """(file, bytes kept, whether zeros take the place of the rest): at ends and boundaries, and at random places."""
    places = list[tuple[Path, int, bool]]()
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        content = file.read_bytes()
        kept = {0, 1, len(content) // 2, len(content) - 1, *boundaries(file)}
        kept |= {dice.randrange(len(content)) for _ in range(3)}
        places += [(file, size, False) for size in sorted(kept) if size < len(content)]
        zeroed = dice.sample(range(len(content)), 3)
        places += [(file, size, True) for size in sorted({0, *zeroed}) if any(content[size:])]
    return places


def boundaries(file: Path) -> Iterator[int]:
    """Where the members of a tar begin, and where their values do."""
    if file.suffix == ".tar":
        with tarfile.open(file) as tar:
            for member in tar:
                yield from (member.offset, member.offset_data)


def torn(storage: str, *, trials: int | None, seed: int) -> Tally:
    """One file of a finished cache each; all places where `trials` is None."""
    here, dice, tally = scene(), random.Random(seed), Tally("torn, cut, zero-filled", storage)
    with here.copy(storage) as out:
        places = cuts(out, dice)
        for file, kept, zeroed in places if trials is None else dice.sample(places, trials):
            name, content = file.relative_to(out).as_posix(), file.read_bytes()
            file.write_bytes(content[:kept] + bytes((len(content) - kept) * zeroed))
            problems = _noticed(out, storage, name, zeroed=zeroed)
            tally.noticed += not problems and name != "failures.jsonl"
            problems += here.problems_after_resuming(out, storage)
            tally.note(problems, trial=f"{name}, {kept} of {len(content)} bytes")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return tally


def _noticed(out: Path, storage: str, name: str, *, zeroed: bool) -> list[str]:
    """[] if the damage is named. It is then prepared for building again, as the error says."""
    if name == "failures.jsonl":  # a report, which every build writes anew
        return []
    if name == "settings.json":
        ended = scene().build(out, storage)
        (out / name).unlink()
        return [] if ended.code == 2 and "settings.json: is damaged" in ended.error else ["not noticed"]
    try:
        cache = open_index(out)
    except CacheError:
        return [] if name == "index.json" else ["another error"]
    findings = verify_cache(cache)
    problems = [] if [finding.file for finding in findings] == [name] else [f"verify: {findings}"]
    is_record = name.count("/") == 1 and name.endswith(".json")
    if zeroed:
        discard(cache, findings)
    elif not is_record:
        try:
            open_cache(out)
            problems.append("opened")
        except CacheError:
            pass
    return problems


@pytest.mark.parametrize("storage", EITHER_STORAGE)
def test_torn_files_are_noticed_and_made_again(storage: str) -> None:
    tally = torn(storage, trials=8, seed=0)
    assert (tally.wrong, tally.recovered) == ([], 8)
