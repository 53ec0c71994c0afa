"""`reencoder-autoencoder evaluate`: its folder, its tables, resuming, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import reencoder_eval.autoencoder_report.evaluate_autoencoder as report_module
from known_autoencoders import HOP, RATE
from reencoder_eval.autoencoder_report.evaluate_autoencoder import default_folder
from reencoder_eval.cli.autoencoder import app
from reencoder_eval.config import AutoencoderEvalConfig
from reencoder_eval.evaluation_folder import AUTOENCODER, LATENTS_FIGURE, REPORT, SCORES, TABLES, read_rows
from reencoder_eval.metrics.spectral import METRICS
from reencoder_pipeline.config import load_config
from reencoder_pipeline.errors import AutoencoderError, ConfigError, EvaluationError
from reencoder_pipeline.stores.digests import file_digest

CONFIG = Path(__file__).parents[3] / "configs" / "eval" / "autoencoder.yaml"
FEW = ("num_clips=2", "clip_seconds=1", "diagnostic_clips=2", "diagnostic_seconds=0.5", "workers=0", "split=null")
RESHAPING = "known_autoencoders:load_reshaping"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number in range(2):
        audio = 0.2 * np.random.default_rng(number).standard_normal((round(2.5 * RATE), 2))
        soundfile.write(str(folder / f"song {number}.wav"), audio, RATE)
    return folder


def evaluate(name: object, songs: Path, *settings: str, options: tuple[str, ...] = ()) -> Any:
    words = [word for setting in (f"source={songs}", *FEW, *settings) for word in ("--set", setting)]
    return CliRunner().invoke(app, ["evaluate", str(name), *words, *options])


@pytest.fixture(scope="module")
def finished(songs: Path, tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote for the tiny autoencoder, and printed, in printed.txt. Not to be changed."""
    out = tmp_path_factory.mktemp("report") / "run"
    result = evaluate(tiny_autoencoder, songs, f"out={out}", "listening_clips=1")
    assert result.exit_code == 0, result.output
    (out / "printed.txt").write_text(result.stdout)
    return out


def test_the_folder_holds_every_number(finished: Path, tiny_autoencoder: Path) -> None:
    report = json.loads((finished / AUTOENCODER).read_text())
    assert report["autoencoder"]["weights"] == file_digest(tiny_autoencoder) == report["weights"]["sha256"]
    assert report["weights"]["header"]["reencoder"]["format"] == "reencoder-vocos-1"
    assert list(report["scores"]) == ["autoencoder", "sinc"]
    rows = [row["scores"] for row in read_rows(finished / SCORES) if row["system"] == "autoencoder"]
    for metric in METRICS:
        cell = report["scores"]["autoencoder"][metric]
        assert cell["low"] <= cell["value"] <= cell["high"]
        assert cell["value"] == pytest.approx(np.mean([row[metric] for row in rows]))
    assert report["paper"]["stft_d_full"] == 1.13
    assert report["paper"]["mel_d_high"] == 0.76
    size = report["size"]
    assert size["parameters"] == size["encoder_parameters"] + size["decoder_parameters"]
    assert size["encode_gflops"] > 0
    assert (report["clips"]["count"], report["settings"]["seed"]) == (2, 0)
    assert torch.__version__.startswith(report["versions"]["torch"])
    assert len(report["diagnostics"]["posterior"]["sigma"]) == report["autoencoder"]["channels"] == 8
    assert (finished / LATENTS_FIGURE).read_bytes().startswith(b"\x89PNG")
    assert (finished / TABLES).is_file()
    assert not list(finished.glob("*.partial"))


def test_the_printed_tables_stand_side_by_side(finished: Path) -> None:
    printed = (finished / "printed.txt").read_text()
    report = json.loads((finished / AUTOENCODER).read_text())
    lines = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    for metric, label, paper in (("stft_d_low", "STFT-D, low band", "0.58"), ("mel_d_full", "mel-D", "0.57")):
        cells = [cell.strip() for cell in lines[label].split("│")[2:5]]
        expected = [report["scores"][system][metric] for system in ("autoencoder", "sinc")]
        assert cells == [*(f"{e['value']:z.2f} [{e['low']:z.2f}, {e['high']:z.2f}]" for e in expected), paper]
    assert "SI-SDR, dB" in lines
    for name in ("Effective rank", "Gain error, g = 0.5", "Mixing error", "High band", "Decoder noise", "Proximity"):
        assert len(lines[name].split("│")[3].strip()) > 20, "each has its meaning beside it"
    assert printed.splitlines()[-3:] == [str(finished / name) for name in (AUTOENCODER, REPORT, LATENTS_FIGURE)]


def test_the_same_command_again_keeps_scores_and_diagnostics(
    finished: Path, songs: Path, tiny_autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / AUTOENCODER).read_bytes()
    again = ("listening_clips=1", f"out={finished}")
    monkeypatch.setattr(report_module, "diagnose", None)
    result = evaluate(tiny_autoencoder, songs, *again, options=("--json",))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(before)
    assert (finished / AUTOENCODER).read_bytes() == before
    with pytest.raises(TypeError, match="not callable"):  # other excerpts have to be measured
        raise evaluate(tiny_autoencoder, songs, *again, "diagnostic_seconds=0.4").exception
    assert (finished / AUTOENCODER).read_bytes() == before  # whole, or as it was


def test_an_autoencoder_of_ones_own_without_weights(songs: Path, tmp_path: Path) -> None:
    result = evaluate(RESHAPING, songs, f"out={tmp_path / 'run'}", "listening_clips=0", options=("--json",))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["weights"] is None
    assert report["size"]["parameters"] is report["size"]["encode_gflops"] is None
    assert report["scores"]["autoencoder"]["stft_d_full"]["value"] == pytest.approx(0, abs=1e-4)
    assert report["autoencoder"]["hop"] == HOP
    shown = evaluate(RESHAPING, songs, f"out={tmp_path / 'run'}", "listening_clips=0").stdout
    assert "not measured" in shown


def test_diagnostics_can_be_left_out(songs: Path, tmp_path: Path) -> None:
    result = evaluate(RESHAPING, songs, f"out={tmp_path / 'run'}", "listening_clips=0", "diagnostic_clips=0")
    assert result.exit_code == 0, result.output
    assert "Effective rank" not in result.stdout
    assert json.loads((tmp_path / "run" / AUTOENCODER).read_text())["diagnostics"] is None
    assert not (tmp_path / "run" / LATENTS_FIGURE).exists()


def test_weights_that_changed_meanwhile_are_not_described(tiny_autoencoder: Path) -> None:
    from reencoder_eval.autoencoder_report.weights_record import weights_record

    assert weights_record(str(tiny_autoencoder), digest="0" * 64) is None


def test_exit_3_when_a_file_failed(songs: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join([*map(str, sorted(songs.iterdir())), str(tmp_path / "absent.wav")]))
    settings = (f"source={tmp_path / 'list.txt'}", f"out={tmp_path / 'run'}", "listening_clips=0")
    result = evaluate(RESHAPING, songs, *settings, "num_clips=1", "diagnostic_clips=1")
    assert result.exit_code == 3, result.output
    assert "1 failures" in result.stderr


@pytest.mark.parametrize(
    ("name", "settings", "kind", "message"),
    [
        ("hause", (), AutoencoderError, "did you mean house"),
        ("configs/eval/bwe.yaml", (), ConfigError, "goes to --config"),
        (RESHAPING, ("source=/no/such/folder",), EvaluationError, "reencoder-cache fetch debian-music"),
        (RESHAPING, ("split=test", "test_share=0"), EvaluationError, "no track belongs to this split"),
        (RESHAPING, ("clip_seconds=60",), EvaluationError, "no clip of 60 s"),
        (RESHAPING, ("num_clip=3",), ConfigError, "did you mean num_clips"),
        (RESHAPING, ("diagnostic_seconds=0",), ConfigError, "diagnostic_seconds"),
    ],
)
def test_what_cannot_be_measured_is_said(
    name: str, settings: tuple[str, ...], kind: type[Exception], message: str, songs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(kind, match=message):
        raise evaluate(name, songs, *settings, f"out={out}").exception
    assert not out.exists()


def test_the_shipped_configuration_is_the_default() -> None:
    assert load_config(CONFIG, AutoencoderEvalConfig) == load_config(None, AutoencoderEvalConfig)


def test_another_autoencoder_or_split_is_another_folder() -> None:
    names = ["house", "out/runs/x/autoencoder.safetensors", "out/runs/y/autoencoder.safetensors"]
    folders = {default_folder(name, split) for name in names for split in ("test", "valid", None)}
    assert len(folders) == 9
    assert default_folder("house", None) == Path("out/eval/autoencoder/house/all")


@pytest.mark.parametrize("words", [[], ["evaluate"], ["card"]])
def test_help_imports_nothing_slow(words: list[str]) -> None:
    code = (
        "import sys; from reencoder_eval.cli.autoencoder import app\n"
        f"app({[*words, '--help']!r}, standalone_mode=False)\n"
        "slow = {'torch', 'numpy', 'scipy', 'matplotlib', 'jinja2', 'soundfile'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
