"""Hostile training states: nothing in them is run, and nothing is allocated that the file does not hold."""

from __future__ import annotations

import hashlib
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.training.state_file import COMMENT, is_state, load_optimizer, read_state, write_state

VALUES = {"step": 3, "generator": {"weight": torch.arange(4.0)}}


class Calls:
    """Unpickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def state(path: Path, value: object = None) -> Path:
    write_state(path, {**VALUES, **({} if value is None else {"more": value})}, kind="baseline", settings={"lr": 1.0})
    return path


def signed(path: Path, content: bytes) -> Path:
    """With a checksum that fits, as whoever hands on a state can make it."""
    content = content[:-2] + (len(COMMENT) + 64).to_bytes(2, "little") + COMMENT
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    return path


def test_a_state_comes_back(tmp_path: Path) -> None:
    found = read_state(state(tmp_path / "state.pt"), kind="baseline")
    assert (found["step"], found["settings"]) == (3, {"lr": 1.0})
    assert torch.equal(found["generator"]["weight"], torch.arange(4.0))
    assert is_state(tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3, "it is what torch.save writes"


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a command": lambda folder: Calls(os.system, f"touch {folder / 'ran'}"),
    "eval": lambda folder: Calls(eval, f"open({str(folder / 'ran')!r}, 'w')"),
    "many bytes": lambda _: Calls(bytearray, 10**10),
    "a large tensor": lambda _: Calls(torch.Tensor, 10**9),
    "a large storage": lambda _: Calls(torch.FloatStorage, 10**9),
    "one value many times": lambda _: torch.zeros(1).expand(40_000, 40_000),
    "overlapping rows": lambda _: torch.zeros(5000).as_strided((4000, 4000), (1, 0)),
    "a sparse tensor": lambda _: torch.sparse_coo_tensor(
        torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6), check_invariants=True
    ),
    "a tensor without values": lambda _: torch.empty(10**6, 10**6, device="meta"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_training_writes_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    state(path, HOSTILE[name](tmp_path))
    refused(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0"])
def test_a_member_that_unpacks_to_more_is_refused(name: str, tmp_path: Path) -> None:
    torch.save({**VALUES, "reencoder_state": 3, "kind": "baseline", "settings": {}}, tmp_path / "archive")
    with zipfile.ZipFile(tmp_path / "archive") as before, zipfile.ZipFile(tmp_path / "bomb", "w") as bomb:
        for member in before.infolist():
            content = before.read(member)
            if member.filename == name:
                bomb.writestr(member.filename, content + bytes(10**8), compress_type=zipfile.ZIP_DEFLATED)
            else:
                bomb.writestr(member.filename, content)
    assert (tmp_path / "bomb").stat().st_size < 10**6
    refused(signed(tmp_path / "state.pt", (tmp_path / "bomb").read_bytes()))


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The central directory names one member a hundred times."""
    torch.save({**VALUES, "large": torch.zeros(10_000)}, tmp_path / "archive")
    content = (tmp_path / "archive").read_bytes()
    end = content.rindex(b"PK\5\6")
    size, start = (int.from_bytes(content[end + at : end + at + 4], "little") for at in (12, 16))
    directory = content[start : start + size] * 100
    tail = bytearray(content[end:])
    count = int.from_bytes(tail[10:12], "little") * 100
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = len(directory).to_bytes(4, "little")
    refused(signed(tmp_path / "state.pt", content[:start] + directory + bytes(tail)))


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"PK\5\6" + bytes(18), bytes(1000), pickle.dumps({"step": 1})])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    refused(tmp_path / "state.pt")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder")
    refused(signed(tmp_path / "state.pt", content + b"\0\0"))
    os.mkfifo(tmp_path / "pipe")
    assert not is_state(tmp_path / "pipe")
    refused(tmp_path / "pipe")


def test_values_nested_without_end_are_refused(tmp_path: Path) -> None:
    ring: list[object] = []
    ring.append(ring)
    refused(state(tmp_path / "ring", ring))
    twice: list[object] = []
    for _ in range(60):
        twice = [twice, twice]
    refused(state(tmp_path / "twice", twice))
    content = b"\x80\x02}q\x00X\x04\x00\x00\x00moreq\x01" + b"]" * 50_000 + b"a" * 49_999 + b"s."
    torch.save({"more": 1}, tmp_path / "archive")
    with zipfile.ZipFile(tmp_path / "archive") as before, zipfile.ZipFile(tmp_path / "deep", "w") as nested:
        for member in before.infolist():
            nested.writestr(member.filename, content if member.filename.endswith("data.pkl") else before.read(member))
    refused(signed(tmp_path / "state.pt", (tmp_path / "deep").read_bytes()))


@pytest.mark.parametrize("value", [[1, 2], "text", 3, {}, {"reencoder_state": 3}, {"reencoder_state": [1]}])
def test_archives_of_other_values_are_no_states_of_this_version(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "archive")
    assert not is_state(tmp_path / "archive")
    with pytest.raises(CheckpointError):
        read_state(signed(tmp_path / "state.pt", (tmp_path / "archive").read_bytes()), kind="baseline")


@pytest.mark.parametrize(
    "values",
    [
        {"step": "3"}, {"step": -1}, {"step": 10**30}, {"step": 2.5}, {"step": True}, {"step": None},
        {"pending": 3}, {"pending": [{"l1": "low"}]}, {"pending": [[1.0]]}, {"valid": {"l1": None}}, {"best": "none"},
        {"spec": []}, {"cache": 5}, {"learner": [1]}, {"settings": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_plain_values_of_other_kinds_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    archive = {**VALUES, "reencoder_state": 3, "kind": "baseline", "settings": {}, **values}
    torch.save(archive, tmp_path / "archive")
    refused(signed(tmp_path / "state.pt", (tmp_path / "archive").read_bytes()))


def test_an_optimiser_keeps_its_own_settings_and_takes_no_moments_that_do_not_fit() -> None:
    def adamw(lr: float) -> torch.optim.Optimizer:
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter], lr=lr, weight_decay=lr)
        parameter.sum().backward()
        optimizer.step()
        return optimizer

    one, state = adamw(0.1), adamw(0.5).state_dict()
    load_optimizer(one, state)
    assert (one.param_groups[0]["lr"], one.param_groups[0]["weight_decay"]) == (0.1, 0.1)
    for bad in (torch.zeros(4), torch.zeros(1), 3.0):
        changed = adamw(0.5).state_dict()
        changed["state"][0]["exp_avg"] = bad
        with pytest.raises(ValueError, match="exp_avg does not fit"):
            load_optimizer(adamw(0.1), changed)


def refused(path: Path) -> None:
    """As damaged; what a hundred bytes of memory for each of the file allow is far below what is asked for."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="the training state is damaged or not one of this program"):
            read_state(path, kind="baseline")
        assert tracemalloc.get_traced_memory()[1] < 100 * path.stat().st_size + 4 * 10**6
    finally:
        tracemalloc.stop()
