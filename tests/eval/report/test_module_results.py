"""`reencoder-eval card`, and the modules that come with the package: files, cards and names agree."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from changed_module import read_parts
from example_run import write_run
from reencoder_eval.cli.evaluate import app
from reencoder_eval.report.module_card import card_with_results, results_of
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.errors import EvaluationError
from reencoder_trainer.release.find_module import RELEASED, find_module, released_modules
from reencoder_trainer.release.module_card import render_card
from reencoder_trainer.trained_module import load_module, save_module
from trained_modules import make_trained


def test_a_card_holds_what_evaluations_found_of_the_module(tmp_path: Path) -> None:
    save_module(make_trained(task="bwe"), tmp_path / "module.safetensors")
    run = write_run(tmp_path / "strange music")
    arguments = [str(tmp_path), "--row", "x", "--from", str(run), "--from", str(run), "--licence", "MIT"]
    printed = CliRunner().invoke(app, ["card", *arguments, "--name", "me/bwe"], catch_exceptions=False)
    written = CliRunner().invoke(app, ["card", *arguments, "--name", "me/bwe", "--out", str(tmp_path / "card.md")])
    assert written.exit_code == 0
    assert (tmp_path / "card.md").read_text() == printed.stdout
    assert printed.stdout.count("### Bandwidth extension & more: strange music, split test") == 2
    [first, *_] = [line for line in printed.stdout.splitlines() if line.startswith("| Autoencoder, full band")]
    assert "2.00 [1.00, 3.00]" in first  # clips of 1, 2 and 3
    bare = render_card(load_module(tmp_path / "module.safetensors"), name="me/bwe", licence="MIT")
    head, tail = bare.split("## Training")
    assert printed.stdout.startswith(head)
    assert printed.stdout.endswith(tail)


def test_a_row_that_was_not_evaluated_is_an_error_that_names_those_that_were(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(EvaluationError, match=r"no module of this label[\s\S]*y\n  try: [^\n]*: x"):
        results_of(run, row="y")


def test_of_mono_to_stereo_a_card_has_figure_3_of_its_module_alone() -> None:
    results = results_of(Path(__file__).parents[3] / "results" / "m2s", row="S")
    _, figure_3 = results.split("Figure 3")
    shares = ("random c", "lambda 0.25", "lambda 0.5", "lambda 0.75", "oracle c")
    assert [f"| Ours (S), {share} |" in figure_3 for share in shares] == [True] * 5
    assert "Ours (M)" not in results
    assert "Decorrelating" not in results


@pytest.mark.parametrize("name", released_modules())
def test_a_released_module_fits_the_house_autoencoder_and_has_the_card_that_the_code_writes(name: str) -> None:
    trained = load_module(find_module(name))
    trained.spec.require_same(load_autoencoder("house").spec, where=name, remedy="train it again")
    assert name.startswith(f"{trained.task.name}_")
    assert find_module(name).stat().st_size < 40_000_000
    head, tail = render_card(trained, name=name, licence="MIT").split("## Training")
    card = (RELEASED / f"{name}.md").read_text(encoding="utf-8")
    assert card.startswith(head)
    assert card.endswith(tail)
    assert "## Results" in card


DATA = {
    "bwe_s": "5eea5ec5d671a6ddb8821334ee9f693b20e534445f5f7a15899942ae3496cf40",
    "m2s_s": "2c8b7c363b26a4179aad49b288b5aec5d13a806c2ae5b63ba2e4370d7b16fb8d",
}
"""sha256 of all that follows the header: the tensors as they were trained, in their order."""


@pytest.mark.parametrize("name", DATA)
def test_a_released_module_says_how_its_inputs_were_made_and_has_the_tensors_that_were_trained(name: str) -> None:
    content = find_module(name).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert hashlib.sha256(content[start:]).hexdigest() == DATA[name]
    header, _ = read_parts(find_module(name))
    assert header["low_band"] == {"rate": 22_050, "resampler": "soxr_vhq"}
    assert header["window_frames"] == 60, "1.4 s"


def test_there_are_released_modules() -> None:
    assert "bwe_s" in released_modules()


def test_a_card_without_evaluations_is_the_plain_one(tmp_path: Path) -> None:
    save_module(make_trained(), tmp_path / "module.safetensors")
    card = card_with_results(tmp_path, row="x", runs=[], name=None, licence=None)
    assert card == render_card(make_trained(), name=None, licence=None)
