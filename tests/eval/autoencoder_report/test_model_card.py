"""The model card: every number from the measurements, nothing hidden by an odd name, and no card of other weights."""

from __future__ import annotations

import copy
import json
import re
import shlex
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from example_report import METRICS, cell, make_report
from reencoder_eval.autoencoder_report.card import TEMPLATES, autoencoder_card, limits, measuring_commands, write_card
from reencoder_eval.autoencoder_report.readings import readings
from reencoder_eval.autoencoder_report.training_music import Music, read_music
from reencoder_eval.cli.autoencoder import app
from reencoder_eval.config import AutoencoderEvalConfig
from reencoder_eval.evaluation_folder import AUTOENCODER, write_json
from reencoder_pipeline.autoencoders.vocos.autoencoder import HOUSE_WEIGHTS
from reencoder_pipeline.config import load_config
from reencoder_pipeline.corpora.debian_music import manifest_path
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.plain_text import markdown_code, markdown_text
from reencoder_pipeline.stores.digests import file_digest


def render(report: dict[str, Any], *, music: Music | None = None, licence: str = "MIT") -> str:
    name = report["name"]
    return autoencoder_card(
        report, name=name, music=music, licence=licence, commands=measuring_commands(report, name=name)
    )


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def tables(card: str) -> list[list[str]]:
    """Runs of lines that are a table."""
    runs: list[list[str]] = [[]]
    for line in card.splitlines():
        if line.startswith("|"):
            runs[-1].append(line)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def columns(line: str) -> int:
    return len(re.sub(r"\\.", "", line).split("|")) - 2


def test_a_card_says_what_was_measured() -> None:
    report = make_report()
    card = render(report, music=read_music(manifest_path()))
    for text in (
        "1.50 \\[1.38, 1.62\\]", "12.50 \\[12.38, 12.62\\]", "0.58", "6 clips of 10 s from 3 tracks of the valid split",
        "1.23 |", "2.22 |", "3.45 |", "1.25 |", "2.50 |", "3.75 |", "6.5 times real time", "context 17 frames (0.39 s)",
        "4321", "losses.kl", "debian_music.jsonl", "1.8 of 2", "0.32 (0.12 after an affine",
        "0.87 (0.70 to 0.95 by clip)", "12.3 MB", "ab" * 32, 'load_autoencoder("mine")',
    ):  # fmt: skip
        assert text in card, text
    head = front_matter(card)
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == ("mit", "reencoder", "audio-to-audio")
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"]: metric["value"] for metric in metrics} == {m: 1.5 + n for n, m in enumerate(METRICS)}


def test_every_diagnostic_of_the_terminal_is_in_the_card() -> None:
    report = make_report()
    card = render(report)
    for line in readings(report["diagnostics"]):
        assert markdown_text(line.name.strip()) in card
        assert markdown_text(line.value) in card


def test_the_template_holds_no_number_of_its_own() -> None:
    template = (TEMPLATES / "model_card.md.jinja").read_text()
    prose = re.sub(r"{{.*?}}|{%.*?%}", "", template, flags=re.DOTALL)
    # One frame; float32; the (batch, 1, samples) of the code; the level of the intervals.
    assert set(re.findall(r"\d+(?:\.\d+)?", prose)) <= {"1", "32", "95"}


def test_all_tables_have_their_columns() -> None:
    found = tables(render(make_report(name="a|b"), music=read_music(manifest_path())))
    assert len(found) == 5
    for table in found:
        assert len({columns(line) for line in table}) == 1, table


@pytest.mark.parametrize(
    "name",
    ["a|b", "back`tick", "two\nlines", "<script>", "*stars* _under_", "it's", 'say "x"', "音楽/モデル", "{{ 7 * 7 }}"],
)
def test_odd_names_stay_text(name: str) -> None:
    report = make_report(name=name)
    card = render(report)
    assert front_matter(card)["model-index"][0]["name"] == name
    assert f"# {markdown_text(name)}\n" in card
    line = next(line for line in card.splitlines() if "= load_autoencoder(" in line)
    assert json.loads(line.partition("(")[2].rpartition(")")[0]) == name
    body = card.split("```bash\n")[1].split("\n```")[0]
    assert shlex.split(body)[shlex.split(body).index("evaluate") + 1] == name
    for table in tables(card):
        assert len({columns(row) for row in table}) == 1


def test_text_and_code_survive_markdown() -> None:
    assert markdown_text("a|b\n*c* [d] <e> `f`") == r"a\|b \*c\* \[d\] &lt;e&gt; \`f\`"
    assert markdown_code("a") == "`a`"
    assert markdown_code("a``b") == "``` a``b ```"
    assert markdown_code("a|b") == r"`a\|b`"


def test_what_is_missing_is_not_measured() -> None:
    report = make_report()
    report["weights"] = report["diagnostics"] = None
    report["size"] = dict.fromkeys(report["size"])
    del report["scores"]["sinc"], report["scores"]["autoencoder"]["si_sdr"]
    card = render(report)
    assert "None" not in card
    assert "nan" not in card.lower().split()
    for heading in ("## Size", "## Reconstruction", "## Latents"):
        assert "not measured" in card.split(heading)[1].split("\n## ")[0].lower(), heading
    assert "The music: not recorded." in card
    assert "does not record its training" in card


def test_no_reading_depends_on_what_is_not_there() -> None:
    report = make_report()
    diagnostics = report["diagnostics"]
    diagnostics["posterior"] = diagnostics["mixing"] = None
    diagnostics["gain"] = {"gain": 0.5, "error": None, "affine_error": None}
    diagnostics["proximity"] |= {"spearman": None, "lowest": None, "highest": None}
    diagnostics["channels"]["lag1"] = [None, None]
    card = render(report)
    assert "not available" in card
    assert "no stereo clip" in card


def test_channels_below_their_posterior_are_told() -> None:
    report = make_report()
    report["diagnostics"]["posterior"] |= {"sigma": [0.11, 0.4], "unused": 0}
    lines = {line.name: line for line in readings(report["diagnostics"])}
    assert lines["Unused channels"].value == "0 of 2, and 0 with a std below sigma"
    report["diagnostics"]["channels"]["std"] = [0.01, 2.0]
    line = next(line for line in readings(report["diagnostics"]) if line.name == "Unused channels")
    assert line.value == "0 of 2, and 1 with a std below sigma"
    assert "leave them out" in line.reading


def test_limits_follow_from_the_numbers() -> None:
    report = make_report()
    poor = " ".join(limits(report))
    assert "SI-SDR 7.50 dB" in poor
    assert "STFT-D, low band 2.50 against 0.58" in poor
    assert "nearer to the original than its output in SI-SDR, dB 17.50 against 7.50" in poor
    good = copy.deepcopy(report)
    good["scores"]["autoencoder"] = {metric: cell(0.3) for metric in METRICS} | {"si_sdr": cell(30.0)}
    fine = " ".join(limits(good))
    assert not any(text in fine for text in ("SI-SDR", "behind the paper", "nearer to the original"))
    assert "6 clips of 3 tracks" in fine


def test_the_commands_measure_the_same_again() -> None:
    report = make_report()
    fetch, evaluate = map(shlex.split, measuring_commands(report, name="mine"))
    assert fetch == ["reencoder-cache", "fetch", "debian-music", "--out", "out/music"]
    settings = [word for before, word in pairwise(evaluate) if before == "--set"]
    repeated = load_config(None, AutoencoderEvalConfig, settings).model_dump(mode="json")
    assert repeated == {key: value for key, value in report["settings"].items() if key != "name"}
    assert {setting.partition("=")[0] for setting in settings} == {"split", "out"}
    report["settings"] |= {"source": "/my music", "split": None}
    (again,) = map(shlex.split, measuring_commands(report, name="mine"))
    assert "source=/my music" in again
    assert load_config(None, AutoencoderEvalConfig, ["split=null"]).split is None
    assert "split=null" in again


def test_the_music_is_the_train_split_by_package() -> None:
    music = read_music(manifest_path())
    assert music.tracks == manifest_path().read_text().count('"split": "train"')
    assert music.hours == pytest.approx(sum(package.hours for package in music.packages))
    assert 12 < music.hours < 14
    by_name = {package.name: package for package in music.packages}
    assert by_name["hyperrogue-music"].licences == "CC-BY-SA-3.0"
    assert "GPL-2.0-only (" in by_name["ufoai-music"].licences


def test_a_manifest_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"path": "a/x.wav", "duration": 3600},
        {"path": "a/y.wav", "num_samples": 441, "sample_rate": 44_100, "license": "CC0"},
        {"path": "b/z.wav", "split": "test"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    music = read_music(tmp_path / "m.jsonl")
    assert [(one.name, one.tracks, one.licences) for one in music.packages] == [("a", 2, "not recorded (1), CC0 (1)")]
    assert music.hours == pytest.approx(1, abs=0.001)
    with pytest.raises(EvaluationError, match="no such manifest"):
        read_music(tmp_path / "absent.jsonl")
    (tmp_path / "m.jsonl").write_text("a.wav\n")
    with pytest.raises(EvaluationError, match="not valid JSON"):
        read_music(tmp_path / "m.jsonl")


def test_a_licence_without_a_short_name_is_other() -> None:
    head = front_matter(render(make_report(), licence="my terms: ask me"))
    assert (head["license"], head["license_name"]) == ("other", "my terms: ask me")


def card_command(name: object, measured: Path, out: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["card", str(name), "--from", str(measured), "--out", str(out), *options])


def test_the_command_writes_the_card_and_says_where(tmp_path: Path) -> None:
    write_json(tmp_path / AUTOENCODER, make_report(name="my.module:load"))
    result = card_command("my.module:load", tmp_path, tmp_path / "deep" / "card.md", "--licence", "CC0-1.0")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "deep" / "card.md")
    card = (tmp_path / "deep" / "card.md").read_text()
    assert front_matter(card)["license"] == "cc0-1.0"
    last = card.split("```bash\n")[1].split("\n```")[0].splitlines()[-1]
    assert shlex.split(last)[1:3] == ["card", "my.module:load"]
    assert shlex.split(last)[-2:] == ["--licence", "CC0-1.0"]


def test_measurements_of_other_weights_make_no_card(tiny_autoencoder: Path, tmp_path: Path) -> None:
    write_json(tmp_path / AUTOENCODER, make_report())
    for name in (tiny_autoencoder, "other.module:load"):
        with pytest.raises(EvaluationError, match="measurements of another autoencoder"):
            raise card_command(name, tmp_path, tmp_path / "card.md").exception
    with pytest.raises(EvaluationError, match="there are no measurements"):
        raise card_command("house", tmp_path / "absent", tmp_path / "card.md").exception
    write_json(tmp_path / AUTOENCODER, {**make_report(name="m:f"), "diagnostics": {"version": 0}})
    with pytest.raises(EvaluationError, match="holds no diagnostics of this version"):
        raise card_command("m:f", tmp_path, tmp_path / "card.md").exception
    assert not (tmp_path / "card.md").exists()


def test_the_card_in_the_repository_is_of_the_shipped_weights() -> None:
    card = HOUSE_WEIGHTS.with_name("house.md").read_text(encoding="utf-8")
    assert file_digest(HOUSE_WEIGHTS) in card
    assert front_matter(card)["license"] == "mit"


@pytest.mark.parametrize("field", ["sample_rate", "channels", "hop"])
def test_measurements_of_others_bring_no_markup_into_a_card(field: str) -> None:
    report = make_report()
    evil = "<script>alert(1)</script>\n# [a](b)"
    report["versions"] = {evil: evil}
    card = render(report)
    assert "<script>" not in card
    assert "\n# [" not in card
    report["autoencoder"] = {**report["autoencoder"], field: evil}
    with pytest.raises(EvaluationError, match=AUTOENCODER) if field != "hop" else nullcontext():
        assert "<script>" not in render(report)


DAMAGED = [
    "[1]", "{}", '{"autoencoder": 5}', '{"autoencoder": {"weights": 1}, "name": []}', "[" * 200_000,
    json.dumps({"name": "house", "autoencoder": {"weights": file_digest(HOUSE_WEIGHTS)}}),
    json.dumps({"name": "house", "autoencoder": {"weights": file_digest(HOUSE_WEIGHTS), "licence": 5}, "settings": 1}),
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_measurements_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / AUTOENCODER).write_text(content)
    with pytest.raises(EvaluationError, match=AUTOENCODER):
        write_card("house", measured=tmp_path, out=tmp_path / "README.md", music=None, licence=None)
    assert not (tmp_path / "README.md").exists()
