"""A short run of every fuzz target, and all contents that ever made a reader fail; `run.py` is the long run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import NAMES, Target, make_targets, run
from fuzz.workspace import make_workspace

FOUND = sorted(path for path in (Path(__file__).parent / "found").glob("*/*"))
EXAMPLES = 12


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    made = make_targets(make_workspace(tmp_path_factory.mktemp("fuzz")))
    assert tuple(made) == NAMES
    return made


@pytest.fixture
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    """The target of a name; undamaged contents are read first, which also imports what reading needs."""
    chosen = targets[request.param]
    for content in chosen.sound:
        refused = run(chosen, content)
        assert refused is None, refused
    return chosen


@pytest.mark.parametrize("target", NAMES, indirect=True)
def test_damaged_contents_are_refused_or_read(target: Target, tmp_path: Path) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=tuple(HealthCheck.__members__.values()),
    )
    @given(st.data())
    def trial(data: st.DataObject) -> None:
        run(target, data.draw(target.damaged), parent=tmp_path)

    trial()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_failed_once_is_refused_or_read(path: Path, targets: dict[str, Target], tmp_path: Path) -> None:
    run(targets[path.parent.name], path.read_bytes(), parent=tmp_path)
