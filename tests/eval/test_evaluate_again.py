"""An evaluation goes on where it stopped, and scores nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reencoder_eval.evaluation_folder import (
    COSTS,
    JOURNAL,
    LATENT_SCORES,
    REPORT,
    RUN,
    SCORES,
    read_rows,
)
from reencoder_eval.metrics import score as scoring
from reencoder_pipeline.autoencoder import Autoencoder
from tiny_evaluation import CLIPS, LISTENING, ROWS, Evaluate, scores_of, write_module


@pytest.fixture
def no_new_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **settings: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(scoring, "score_clip", refuse)


@pytest.mark.usefixtures("no_new_scores")
def test_running_again_scores_nothing_again(finished: Path, evaluate: Evaluate) -> None:
    names = (SCORES, COSTS, RUN, REPORT, LATENT_SCORES)
    before = {name: (finished / name).read_bytes() for name in names}
    evaluate(finished)
    assert {name: (finished / name).read_bytes() for name in names} == before


@pytest.mark.usefixtures("no_page")
def test_only_what_changed_is_scored_again(
    finished: Path, evaluate: Evaluate, autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[float] = []
    whole = scoring.score_clip
    monkeypatch.setattr(scoring, "score_clip", lambda *a, **k: scored.append(1) or whole(*a, **k))
    evaluate(out := tmp_path / "run", num_clips=2)
    assert len(scored) == 2 * len(ROWS)
    scored.clear()
    evaluate(out, num_clips=3)
    assert len(scored) == len(ROWS)  # the two clips are known
    changed = write_module(tmp_path / "module.safetensors", autoencoder.spec, shift=0.5)
    scored.clear()
    evaluate(out, num_clips=3, modules=[{"label": "S <1>", "path": changed}])
    assert len(scored) == 3  # the module's rows alone
    assert scores_of(out, "ours:S <1>") != scores_of(out, "autoencoder_low_band")
    scored.clear()
    evaluate(out, num_clips=3, resampler="torchaudio_default")
    assert len(scored) == 3 * len(ROWS)  # other audio
    files = [path.name for path in (out / "audio").iterdir()]
    assert len(files) == LISTENING * (len(ROWS) + 1)  # none left of what was before


@pytest.mark.usefixtures("no_page")
def test_an_interrupted_run_goes_on(
    finished: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = scoring.score_clip, iter(range(1000))

    def interrupt(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return whole(*arguments, **settings)

    out = tmp_path / "run"
    monkeypatch.setattr(scoring, "score_clip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(out)
    assert not (out / SCORES).exists()  # not complete, and nothing takes it for complete
    assert len(read_rows(out / JOURNAL)) == 5
    with (out / JOURNAL).open("a") as journal:
        journal.write('{"clip": "torn')
    scored: list[int] = []
    monkeypatch.setattr(scoring, "score_clip", lambda *a, **k: scored.append(1) or whole(*a, **k))
    evaluate(out)
    assert len(scored) == CLIPS * len(ROWS) - 5
    assert read_rows(out / SCORES) == read_rows(finished / SCORES)


@pytest.mark.usefixtures("no_page")
def test_scoring_processes_change_nothing(finished: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", workers=1, num_clips=1)
    expected = read_rows(finished / SCORES)[: len(ROWS)]
    found = read_rows(tmp_path / "run" / SCORES)
    assert [row["key"] for row in found] == [row["key"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        of_all_clips = {"latent_l1"}  # in units that the whole run decides
        scores, others = ({k: v for k, v in r["scores"].items() if k not in of_all_clips} for r in (row, other))
        assert scores == pytest.approx(others, rel=1e-4)
