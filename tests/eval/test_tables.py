"""Tables: means, medians, intervals by track, paired differences, the gap closed; as text, Markdown and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from reencoder_eval.cli.evaluate import app
from reencoder_eval.evaluation_folder import COSTS, LATENT_SCORES, MARKDOWN, SCORES, TABLES, write_json
from reencoder_eval.tables.bootstrap import RESAMPLES, resample_weights
from reencoder_eval.tables.score_tables import text_tables, write_tables
from reencoder_eval.tables.summary import summarise
from reencoder_eval.tables.text_table import markdown
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.stores.jsonl import write_json_lines


def count(gflops: float | None) -> dict[str, Any]:
    if gflops is None:
        return {"gflops": None, "note": "cannot be counted"}
    return {"gflops": gflops, "parameters": 4_300_000, "note": None}


def cost(label: str, stages: list[str], module: dict[str, Any] | None, speed: float | None, **more: Any) -> Any:
    return {"label": label, "trained": True, "stages": stages, "module": module, "times_real_time": speed, **more}


COST: dict[str, Any] = {
    "machine": "a machine",
    "autoencoder": {"encode": count(1.0), "decode": count(2.0)},
    "systems": {
        "ours:S": cost("the ours:S", ["encode", "decode"], count(0.368), 12.34, peak_bytes=5_400_000),
        "sinc": cost("the sinc", [], None, None),
        "autoencoder": cost("the autoencoder", ["encode", "decode"], count(None), 20.0),
        "aero": cost("Aero", [], count(85.3), None, trained=False),
    },
}


def row(system: str, clip: str, track: str, **scores: float | None) -> dict[str, Any]:
    return {"system": system, "label": f"the {system}", "clip": clip, "track": track, "scores": scores, "key": ""}


def rows_of(values: dict[str, list[float]], *, clips_per_track: int = 1) -> list[dict[str, Any]]:
    return [
        row(system, f"clip {number}", f"track {number // clips_per_track}", stft_d_full=value)
        for number in range(len(next(iter(values.values()))))
        for system, value in ((system, column[number]) for system, column in values.items())
    ]


def gap(values: dict[str, list[float]]) -> Any:
    return summarise(rows_of(values)).comparisons["ours:S"]["stft_d_full"].gap_closed


def test_means_and_medians() -> None:
    summary = summarise(rows_of({"sinc": [1.0, 2.0, 3.0, 10.0]}))
    cell = summary.cells["sinc"]["stft_d_full"]
    assert (cell.mean.value, cell.median.value, cell.clips, cell.tracks) == (4.0, 2.5, 4, 4)
    assert cell.mean.low < 4.0 < cell.mean.high
    assert cell.median.low <= 2.5 <= cell.median.high
    assert (summary.clips, summary.tracks, summary.silent) == (4, 4, 0)
    assert summary.comparisons == {}  # no row to compare with


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    mean = summarise(rows_of({"sinc": values.tolist()})).cells["sinc"]["stft_d_full"].mean
    expected = 1.96 * values.std() / np.sqrt(400)
    assert mean.high - mean.value == pytest.approx(expected, rel=0.05)
    assert mean.value - mean.low == pytest.approx(expected, rel=0.05)


def test_the_interval_of_a_median_is_that_of_resampled_medians() -> None:
    values = np.random.default_rng(1).exponential(size=30)
    found = summarise(rows_of({"sinc": values.tolist()})).cells["sinc"]["stft_d_full"].median
    drawn = np.random.default_rng(2).choice(values, size=(20_000, 30))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.05)


def test_clips_of_a_track_are_resampled_together() -> None:
    by_track = np.repeat(np.random.default_rng(0).normal(size=20), 10).tolist()  # ten clips say no more than one
    single = summarise(rows_of({"sinc": by_track[::10]})).cells["sinc"]["stft_d_full"].mean
    clustered = summarise(rows_of({"sinc": by_track}, clips_per_track=10)).cells["sinc"]["stft_d_full"].mean
    naive = summarise(rows_of({"sinc": by_track})).cells["sinc"]["stft_d_full"].mean
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, rel=0.05)
    assert naive.high - naive.low < 0.5 * (clustered.high - clustered.low)


def test_weights_draw_as_many_tracks_as_there_are() -> None:
    weights = resample_weights(["a", "b", "a", "c"], seed=0)
    assert weights.shape == (RESAMPLES, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    assert weights.mean(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.05)
    np.testing.assert_array_equal(weights, resample_weights(["a", "b", "a", "c"], seed=0))
    assert len(np.unique(resample_weights(["a", "a", "a"], seed=0)[:, 0])) > 1  # one track: its clips


def test_differences_are_paired() -> None:
    level = np.random.default_rng(0).uniform(0, 100, size=40)
    summary = summarise(rows_of({"autoencoder_low_band": level.tolist(), "ours:S": (level - 1).tolist()}))
    comparison = summary.comparisons["ours:S"]["stft_d_full"]
    # Every clip improves by exactly one: no uncertainty is left, however much the clips themselves differ.
    assert comparison.difference.value == pytest.approx(-1)
    assert comparison.difference.high - comparison.difference.low == pytest.approx(0, abs=1e-9)
    assert comparison.better == 1.0
    assert comparison.gap_closed is None  # no ceiling row
    assert "autoencoder_low_band" not in summary.comparisons


def test_the_gap_closed_runs_from_the_low_band_to_the_autoencoder() -> None:
    low, best = np.array([2.0, 4.0, 3.0, 5.0]), np.array([1.0, 2.0, 1.5, 3.0])
    for share in (0.0, 0.25, 1.0):
        ours = low + share * (best - low)
        closed = gap({"autoencoder": best.tolist(), "autoencoder_low_band": low.tolist(), "ours:S": ours.tolist()})
        assert (closed.value, closed.low, closed.high) == pytest.approx((share, share, share))


def test_only_modules_close_a_gap() -> None:
    columns = {"autoencoder": [1.0, 2.0], "autoencoder_low_band": [2.0, 4.0], "sinc": [1.5, 3.0]}
    comparisons = summarise(rows_of(columns)).comparisons
    assert [comparisons[name]["stft_d_full"].gap_closed for name in ("autoencoder", "sinc")] == [None, None]


def test_any_row_can_be_compared_with_by_its_label(run: Path) -> None:
    level = np.random.default_rng(1).uniform(0, 100, size=20)
    columns = {"autoencoder": level - 3, "autoencoder_low_band": level, "ours:S": level - 1, "ours:M": level - 1.5}
    rows = rows_of({name: column.tolist() for name, column in columns.items()})
    summary = summarise(rows, against="the ours:S")
    found = {name: compared["stft_d_full"].difference for name, compared in summary.comparisons.items()}
    assert {name: (round(d.value, 6), round(d.low, 6), round(d.high, 6)) for name, d in found.items()} == {
        "autoencoder": (-2, -2, -2), "autoencoder_low_band": (1, 1, 1), "ours:M": (-0.5, -0.5, -0.5)
    }  # fmt: skip
    assert summary.comparisons["ours:M"]["stft_d_full"].gap_closed is None, "a gap starts at the input"
    write_json_lines(run / SCORES, rows)
    done = CliRunner().invoke(app, ["tables", str(run), "--against", "the ours:S", "--markdown"])
    assert "Paired differences to 'the ours:S'" in done.stdout
    assert "| the ours:M | -0.50 [-0.50, -0.50] |" in done.stdout
    with pytest.raises(EvaluationError, match="the autoencoder; the autoencoder_low_band; the ours:S"):
        summarise(rows, against="ours:S")


def test_no_gap_is_reported_where_there_is_none() -> None:
    low = [2.0, 4.0, 3.0, 5.0]
    assert gap({"autoencoder": [3.0, 3.0, 4.0, 4.0], "autoencoder_low_band": low, "ours:S": low}) is None


def test_a_metric_is_averaged_over_the_clips_that_every_system_has() -> None:
    rows = [
        row("sinc", "a", "x", stft_d_full=1.0, stft_d_high=None),
        row("ours:S", "a", "x", stft_d_full=2.0, stft_d_high=7.0),
        row("sinc", "b", "y", stft_d_full=3.0, stft_d_high=5.0),
        row("ours:S", "b", "y", stft_d_full=6.0, stft_d_high=9.0),
        row("sinc", "c", "z", stft_d_full=100.0, stft_d_high=100.0),  # ours failed on this clip
        row("sinc", "d", "z", stft_d_full=None, stft_d_high=None),
        row("ours:S", "d", "z", stft_d_full=None, stft_d_high=None),
    ]
    summary = summarise(rows)
    assert [summary.cells[name]["stft_d_full"].mean.value for name in ("sinc", "ours:S")] == [2.0, 4.0]
    assert [summary.cells[name]["stft_d_high"].mean.value for name in ("sinc", "ours:S")] == [5.0, 9.0]
    assert summary.cells["sinc"]["stft_d_high"].clips == 1
    assert summary.silent == 1


def test_no_scores_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="no scores"):
        summarise([])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    values = {"autoencoder": [1.0, 1.2], "autoencoder_low_band": [2.0, 2.4], "sinc": [2.2, 2.2], "ours:S": [1.5, 1.7]}
    write_json_lines(tmp_path / SCORES, rows_of(values))
    return tmp_path


def test_tables_come_from_scores_alone(run: Path) -> None:
    result = CliRunner().invoke(app, ["tables", str(run)])
    assert result.exit_code == 0, result.output
    for text in ("the ours:S", "1.60 [1.50, 1.70]", "2 clips of 2 tracks", "Paired differences"):
        assert text in result.stdout
    as_json = CliRunner().invoke(app, ["tables", str(run), "--json"])
    assert json.loads(as_json.stdout)["cells"]["ours:S"]["stft_d_full"]["mean"]["value"] == 1.6
    as_markdown = CliRunner().invoke(app, ["tables", str(run), "--markdown"])
    assert "| the sinc | - | - | - | 2.20 [2.20, 2.20] | - / - | 2.20 |" in as_markdown.stdout


def test_costs_are_shown_where_they_are_known(run: Path) -> None:
    write_json(run / COSTS, COST)
    summary = write_tables(run)
    scores = {cells[0]: cells[1:4] for cells in text_tables(summary, COST)[0].rows}
    assert scores["the ours:S"] == ("0.37", "3.00", "12.3")
    assert scores["the sinc"] == scores["the autoencoder_low_band"] == ("-", "-", "-")
    assert scores["the autoencoder"] == ("-", "3.00", "20")
    costs = {cells[0]: cells[1:] for cells in text_tables(summary, COST)[-1].rows}
    assert costs["Autoencoder, encode"] == ("4.30", "1.00", *"-----")
    assert costs["the ours:S"] == ("4.30", "0.37", "1.00", "2.00", "3.37", "12.3", "5")
    assert costs["the autoencoder"] == ("-", "-", "1.00", "2.00", "3.00", "20", "-")
    assert costs["Aero (no weights: counted only)"] == ("4.30", "85.30", "-", "-", "85.30", "-", "-")
    assert "the sinc" not in costs
    assert (run / MARKDOWN).read_text() == "\n".join(markdown(table) for table in text_tables(summary, COST))
    assert json.loads((run / TABLES).read_text()) == summary.to_dict()


def test_markdown_keeps_its_columns_whatever_a_label_holds(run: Path) -> None:
    rows = [{**row("sinc", "a", "x", stft_d_full=1.0), "label": "a | b"}]
    table = [line for line in markdown(text_tables(summarise(rows))[0]).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {11}


def stereo_row(system: str, clip: str, balance: float, **scores: float | None) -> dict[str, Any]:
    return row(system, clip, clip, balance=balance, balance_reference=float(clip), **scores)


def test_stereo_rows_make_tables_of_their_own_and_rows_of_a_balance_none() -> None:
    full = {"stft_d_left": 1.0, "stft_d_right": 2.0, "stft_d_side": 3.0, "stft_d_mid": 0.5, "coherence_error": 0.25}
    rows = [
        stereo_row(system, clip, 0.0, **{name: value + shift for name, value in full.items()})
        for clip in ("1", "2")
        for system, shift in (("autoencoder", 0.0), ("autoencoder_mono", 1.0), ("ours:M:lambda=1", 0.5))
    ]
    rows += [stereo_row("ours:M:lambda=0.5", clip, 0.3) for clip in ("1", "2")]
    summary = summarise(rows)
    assert summary.task == "m2s"
    assert list(summary.labels) == ["autoencoder", "autoencoder_mono", "ours:M:lambda=1"]
    assert summary.comparisons["ours:M:lambda=1"]["stft_d_left"].gap_closed is not None
    distances, differences, cues, *_ = text_tables(summary)
    assert distances.rows[0][:6] == ("the autoencoder", "-", "-", "-", "1.00 [1.00, 1.00]", "2.00")
    assert "STFT-D mid" in differences.columns
    assert cues.rows[2][1] == "0.75 [0.75, 0.75]"


def test_the_correlation_of_figure_3_has_an_interval() -> None:
    random = np.random.default_rng(2)
    y = random.normal(size=60)
    outputs = {"exact": 0.1 * y, "half": y + np.sqrt(3) * random.normal(size=60), "still": 0 * y}
    rows = [
        row(name, str(clip), str(clip), balance=x[clip], balance_reference=y[clip], stft_d_left=1.0)
        for name, x in outputs.items()
        for clip in range(60)
    ]
    summary = summarise(rows)
    exact, half, still = summary.correlations.values()
    assert (exact.value, exact.low) == pytest.approx((1, 1))
    assert (still.value, still.high) == (0, 0)
    assert half.value == pytest.approx(np.corrcoef(y, outputs["half"])[0, 1])
    fisher = np.arctanh(half.value) + np.array([-1.96, 1.96]) / 57**0.5
    assert np.arctanh([half.low, half.high]) == pytest.approx(fisher, abs=0.1)
    (table,) = [one for one in text_tables(summary) if "Figure 3" in one.title]
    assert table.rows[0] == ("the exact", "1.00 [1.00, 1.00]")


def test_frechet_distances_have_a_table_of_their_own(run: Path) -> None:
    write_json(run / LATENT_SCORES, {"frechet": {"sinc": 1.25, "ours:S": None}, "frames": 860, "clips": 2})
    write_tables(run)
    assert "860 frames of 2 clips" in (run / MARKDOWN).read_text()
    assert "| the sinc | 1.25 |" in (run / MARKDOWN).read_text()
    assert "| the ours:S | - |" in (run / MARKDOWN).read_text()
