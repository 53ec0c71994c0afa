"""Names of autoencoders and baselines that a person gives: nonsense is refused by its name, imports are said."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from reencoder_eval.baselines.baseline import load_baseline
from reencoder_eval.cli.autoencoder import app as autoencoder_app
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.cli import app as cache_app
from reencoder_pipeline.errors import AutoencoderError, EvaluationError, ReencoderError, in_one_line
from reencoder_pipeline.named_function import ANNOUNCED, reads_like_a_function

HERE = "named_functions"


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    ANNOUNCED.clear()


def refused(name: str) -> str:
    began = time.process_time()
    with pytest.raises(AutoencoderError) as caught:
        load_autoencoder(name)
    assert time.process_time() - began < 10
    text = str(caught.value)
    assert "try: " in text
    assert len(text) < 3_000
    return text


NONSENSE = [
    *(":", "::", "..:x", "os:", ":x", "os:getpid", "os:name", "os:no_such_function", "os.path:", "a b:c", "1:2"),
    *("/dev/zero", "/dev/null", "/proc/self/mem:x", "~nobody-of-this-name/x", "C:\\weights", "s3://a/b", "..", "."),
    *("no_such_module:x", "os.no_such_part:x", "sys:modules", "builtins:None", "math:pi", "os:a.b", "-:-", "#"),
]  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_names_that_read_like_something_and_are_nothing(name: str) -> None:
    assert in_one_line(name) in refused(name)


@pytest.mark.parametrize(
    "name", ["", " ", "\0", "a\0:b", "os\0:getpid", "a/b\0", "\n", "x" * 100_000, "x/" * 3_000, "é" * 300]
)
def test_names_that_no_terminal_should_see(name: str) -> None:
    text = refused(name)
    assert text.replace("\n", "").isprintable()
    assert in_one_line(name)[:40] in text


@pytest.mark.parametrize("kind", ["pipe", "folder", "pipe in a folder", "pipe with a suffix"])
def test_what_lies_there_and_cannot_be_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("weights.safetensors" if "suffix" in kind else "weights")
    if "folder" in kind:
        path.mkdir()
    if "pipe" in kind:
        os.mkfifo(path / "config.json" if path.is_dir() else path)
    assert str(path) in refused(str(path))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises_key_error", "KeyError: 'cpu' (named_functions.py, line"),
        ("raises_type_error_inside", "TypeError: object of type 'int' has no len()"),
        ("leaves", "SystemExit: 0"),
        ("takes_nothing", "too many positional arguments"),
        ("takes_two", "missing a required argument: 'other'"),
        ("takes_a_keyword", "missing a required"),
        ("gives_none", "is not an autoencoder"),
        ("gives_text", "is not an autoencoder"),
        ("gives_half", "its spec is no LatentSpec"),
        ("NOT_A_FUNCTION", "is not a function"),
        ("raises_key_eror", f"did you mean {HERE}:raises_key_error?"),
    ],
)
def test_functions_that_do_not_give_an_autoencoder(function: str, said: str) -> None:
    text = refused(f"{HERE}:{function}")
    assert f"{HERE}:{function}" in text
    assert said in text


def test_the_exception_inside_a_function_is_the_cause() -> None:
    with pytest.raises(AutoencoderError) as caught:
        load_autoencoder(f"{HERE}:raises_key_error")
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(AutoencoderError, match="has its own message"):
        load_autoencoder(f"{HERE}:explains")


@pytest.mark.parametrize(
    ("module", "said"),
    [("module_that_raises", "ZeroDivisionError: while"), ("module_that_lacks_a_package", "no_such_package_anywhere")],
)
def test_modules_that_cannot_be_imported(module: str, said: str) -> None:
    assert said in refused(f"{module}:load")


@pytest.mark.parametrize(
    "name", [f"{HERE}:refuses", "os:getpid", ":", "os:", "..:x", "module_that_raises:x", "os:name"]
)
def test_the_door_of_the_baselines_is_the_same(name: str) -> None:
    with pytest.raises(EvaluationError, match="try: ") as caught:
        load_baseline(name, weights=Path("w"), task="bwe")
    assert name in str(caught.value)
    with pytest.raises(EvaluationError, match="ValueError: w on cpu"):
        load_baseline(f"{HERE}:refuses", weights=Path("w"), task="bwe")
    with pytest.raises(EvaluationError, match="returned no baseline"):
        load_baseline("builtins:dict", weights=Path("w"), task="bwe")


def test_what_is_imported_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (f"{HERE}:gives_none", f"{HERE}:gives_none", f"{HERE}:gives_text"):
        refused(name)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"imports {HERE}:gives_none, which was named as an autoencoder",
        f"imports {HERE}:gives_text, which was named as an autoencoder",
    ]
    refused("os:")
    assert capsys.readouterr().err == "", "nothing was imported"


@pytest.mark.parametrize("kind", ["worker", "rank"])
def test_workers_and_other_ranks_do_not_say_it_again(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "worker":
        monkeypatch.setattr(multiprocessing, "parent_process", object)
    else:
        monkeypatch.setenv("RANK", "1")
    refused(f"{HERE}:gives_none")
    assert capsys.readouterr().err == ""


def test_a_file_whose_name_reads_like_a_function_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "os:getpid").write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    assert "the family of this file is not known" in refused("os:getpid")
    assert not reads_like_a_function("/a/b:c")


@pytest.mark.parametrize("name", [":", "os:getpid", f"{HERE}:raises_key_error", "/dev/zero"])
def test_commands_refuse_them_before_they_write(name: str, music: Path, tmp_path: Path) -> None:
    configuration = tmp_path / "cache.yaml"
    configuration.write_text(yaml.safe_dump({"autoencoder": name}))
    out = tmp_path / "out"
    for line in (
        ["build", str(music), "--out", str(out), "--autoencoder", name],
        ["build", str(music), "--out", str(out), "--config", str(configuration)],
        ["plan", str(music), "--autoencoder", name],
    ):
        done = CliRunner().invoke(cache_app, line)
        assert isinstance(done.exception, ReencoderError), (line, done.output, done.exception)
        assert name in str(done.exception)
    done = CliRunner().invoke(autoencoder_app, ["evaluate", name, "--set", f"source={music}", "--set", f"out={out}"])
    assert isinstance(done.exception, ReencoderError), (done.output, done.exception)
    assert not list(out.rglob("*")), "nothing was written"


def test_help_says_that_a_function_is_called() -> None:
    for app, command in ((cache_app, "build"), (cache_app, "plan"), (autoencoder_app, "evaluate")):
        text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        assert "which is imported and called" in " ".join(text.replace("│", " ").split())
