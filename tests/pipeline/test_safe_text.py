"""Small files that grow, nest or never end when they are read: refused at once, by name, with a short message."""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reencoder_pipeline.cli import app
from reencoder_pipeline.config import CacheConfig, load_config
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.errors import ConfigError, CorpusError, ReencoderError, shown
from reencoder_pipeline.safe_text import DEEPEST, parse_json, parse_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 8)
)
MERGED = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 9)}]\n" for n in range(1, 8)
)


def said(call: Callable[[], Any], *, kind: type[ReencoderError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.remedy
    assert len(str(caught.value)) < 10_000
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"path": ' * 200_000, "[" * 80 + "]" * 80, '{"path": ' + "[" * 200_000]
)
@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.jsonl.gz"])
def test_a_manifest_that_is_nested_is_refused_by_its_line(tmp_path: Path, text: str, name: str) -> None:
    content = f'{{"path": "a.wav"}}\n{text}\n'.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert f"{name}:2: the manifest row is nested too deeply" in said(
        lambda: read_corpus(tmp_path / name), kind=CorpusError
    )


def test_a_manifest_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(2**26)))
    assert f"{path}: the file unpacks to far more" in said(lambda: read_corpus(path), kind=CorpusError)


def test_a_manifest_may_be_packed_in_several_members(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"path": "a.wav"}\n') + gzip.compress(b'{"path": "b.wav"}\n'))
    assert [track.id for track in read_corpus(path)] == ["a.wav", "b.wav"]


@pytest.mark.parametrize("between", [b"", bytes(3)])
def test_many_small_members_of_a_packed_manifest_take_no_time(tmp_path: Path, between: bytes) -> None:
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes((gzip.compress(b"\n") + between) * 150_000 + gzip.compress(b'{"path": "a.wav"}\n'))
    begun = time.process_time()
    assert [track.id for track in read_corpus(path)] == ["a.wav"]
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hours: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
        ("{a: " * 20_000, "nested too deeply"),
        ("- " * 20_000, "nested too deeply"),
        (BOMB + "format: *a7\n", "is too large once its aliases are expanded"),
        (MERGED + "workers: *m7\n", "is too large once its aliases are expanded"),
        ("hours: &a [*a]", "is too large once its aliases are expanded"),
        ("hours: 0x" + "f" * 100_000, "not valid YAML"),
        ("hours: " + "1:" * 100_000 + "1", "not valid YAML"),
        ("hours: " + "1:" * 200 + "1.0", "not valid YAML"),
        ("hours: !!bool x", "not valid YAML"),
        ("hours: !!timestamp x", "not valid YAML"),
        ("# " + "x" * 2**19, "too large"),
    ],
)
def test_yaml_that_explodes_is_refused_in_a_file_and_in_an_override(tmp_path: Path, text: str, problem: str) -> None:
    (path := tmp_path / "cache.yaml").write_text(text)
    message = said(lambda: load_config(path, CacheConfig))
    assert f"{path}: the configuration file" in message
    assert problem in message
    message = said(lambda: load_config(None, CacheConfig, [f"hours={text}"]))
    assert problem in message
    assert "--set hours=" in message


def test_yaml_may_use_aliases_and_merge_keys() -> None:
    text = "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\nagain: *base\n"
    values = parse_yaml(text, kind=ConfigError, where="text")
    assert values == {"base": {"a": 1, "b": 2}, "mine": {"a": 1, "b": 3}, "again": {"a": 1, "b": 2}}


def test_what_is_nested_as_deeply_as_allowed_is_read() -> None:
    text = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(text, kind=ConfigError, where="text") == parse_yaml(text, kind=ConfigError, where="text")


def test_a_list_of_ten_thousand_problems_is_short(tmp_path: Path) -> None:
    (path := tmp_path / "cache.yaml").write_text("".join(f"unknown_{n}: {n}\n" for n in range(10_000)))
    with pytest.raises(ConfigError) as caught:
        load_config(path, CacheConfig)
    assert len(message := str(caught.value)) < 50_000
    assert "10000 problem(s)" in message
    assert "unknown_0: unknown setting" in message


def test_values_are_shown_as_before_where_they_are_short_and_cut_where_they_are_not() -> None:
    for value in ([1, "b", None, (2,)], {"a": {"b": [1.5]}}, (), "text", 5, True, 10**60, Path("a/b")):
        assert shown(value) == str(value)
    large: Any = ["x"] * 9
    for _ in range(20):
        large = [large] * 9
    for value in (large, "x" * 10**6, 1 << 10**6, {"a": large}, [1 << 10**6]):
        assert len(str(ConfigError("is wrong", where="here", value=value, remedy="try"))) < 3_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
@pytest.mark.parametrize("what", ["manifest", "list", "configuration"])
def test_a_fifo_or_a_socket_is_refused_where_a_file_is_asked_for(tmp_path: Path, what: str) -> None:
    suffix = {"manifest": ".jsonl", "list": ".txt", "configuration": ".yaml"}[what]
    os.mkfifo(fifo := tmp_path / f"fifo{suffix}")
    (tmp_path / "link").symlink_to(fifo)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(its := tmp_path / f"socket{suffix}"))
        for path, found in (
            (fifo, "a FIFO"),
            (tmp_path / "link", "a FIFO"),
            (its, "a socket"),
            (Path("/dev/zero"), "a device"),
        ):
            if what == "configuration":
                message = said(lambda path=path: load_config(path, CacheConfig))
            else:
                message = said(lambda path=path: read_corpus(path), kind=CorpusError)
            assert str(path) in message
            assert found in message


def test_the_command_ends_with_one_message(tmp_path: Path) -> None:
    (manifest := tmp_path / "m.jsonl").write_text("[" * 200_000)
    done = CliRunner().invoke(app, ["build", str(manifest), "--out", str(tmp_path / "cache")])
    assert isinstance(done.exception, CorpusError)
    assert not (tmp_path / "cache/index.json").exists()
