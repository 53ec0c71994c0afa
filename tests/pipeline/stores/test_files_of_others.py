"""Commands that write single files leave those alone that they have not made: cards, exports, plots."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from example_run import write_run
from reencoder_eval.cli.evaluate import app
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import ConfigError, ReencoderError
from reencoder_pipeline.inspection.figures import draw
from reencoder_pipeline.inspection.measurements import measure
from reencoder_trainer.release.export import export_module
from reencoder_trainer.trained_module import save_module
from tiny_cache import write_cache
from trained_modules import make_trained

THEIRS = ["# My own readme\n", "---\nlicense: mit\nlibrary_name: another\n---\n# Card\n", ""]


def card(tmp_path: Path, *more: str) -> Exception | None:
    arguments = ["--row", "x", "--from", str(tmp_path / "run"), "--out", str(tmp_path / "README.md"), *more]
    found = CliRunner().invoke(app, ["card", str(tmp_path / "module.safetensors"), *arguments])
    return found.exception if isinstance(found.exception, ReencoderError) else None


@pytest.mark.parametrize("text", THEIRS)
def test_a_card_replaces_no_file_of_others(text: str, tmp_path: Path) -> None:
    save_module(make_trained(task="bwe"), tmp_path / "module.safetensors")
    write_run(tmp_path / "run")
    (tmp_path / "README.md").write_text(text)
    assert isinstance(card(tmp_path), ConfigError)
    assert (tmp_path / "README.md").read_text() == text
    assert card(tmp_path, "--overwrite") is None
    assert card(tmp_path, "--licence", "MIT") is None, "a card of ours is replaced"
    assert "MIT" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("out", ["a folder", "file/below/README.md"])
def test_a_card_that_cannot_be_written_is_a_message(out: str, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "file").write_text("theirs")
    save_module(make_trained(task="bwe"), tmp_path / "module.safetensors")
    write_run(tmp_path / "run")
    arguments = ["--row", "x", "--from", str(tmp_path / "run"), "--out", str(tmp_path / out)]
    found = CliRunner().invoke(app, ["card", str(tmp_path / "module.safetensors"), *arguments])
    assert isinstance(found.exception, ConfigError)


def test_an_export_replaces_no_file_of_others(tmp_path: Path) -> None:
    save_module(make_trained(task="bwe", output="residual", response_frames=5), tmp_path / "module.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("module.pt2", "module.pt2.json"):
        (out / name).write_bytes(b"{}")
        with pytest.raises(ConfigError, match=name):
            export_module(tmp_path / "module.safetensors", out, formats=["pt2"])
        assert (out / name).read_bytes() == b"{}"
        (out / name).unlink()
    for _ in range(2):  # ours is replaced
        assert export_module(tmp_path / "module.safetensors", out, formats=["pt2"])[0].agrees
    (out / "module.onnx").write_bytes(b"theirs")
    with pytest.raises(ConfigError, match=r"module\.onnx"):
        export_module(tmp_path / "module.safetensors", out)
    assert (out / "module.onnx").read_bytes() == b"theirs"


def test_plots_replace_no_picture_of_others(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "cache"))
    measured = measure(cache, windows=4, seed=0)
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "channels.png").write_bytes(b"theirs")
    with pytest.raises(ConfigError, match=r"channels\.png"):
        draw(cache, measured, plots)
    assert [path.name for path in plots.iterdir()] == ["channels.png"]
    (plots / "channels.png").unlink()
    for _ in range(2):
        assert all(path.is_file() for path in draw(cache, measured, plots))
