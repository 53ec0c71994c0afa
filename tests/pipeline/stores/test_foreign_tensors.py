"""Checkpoints of torch.save from anywhere: nothing in them is run, and they take no more memory than their size."""

from __future__ import annotations

import io
import os
import resource
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch._utils import _rebuild_tensor_v2

from reencoder_eval.baselines.aero.checkpoint import load_aero_weights
from reencoder_eval.baselines.musichifi.checkpoint import load_musichifi
from reencoder_eval.baselines.weights import save_baseline
from reencoder_pipeline.autoencoders.tensor_files import read_tensors
from reencoder_pipeline.errors import AutoencoderError, CheckpointError
from reencoder_pipeline.stores.foreign_tensors import read_pickled, read_safetensors

GIGABYTE = 2**30


class Reduced:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def storage_of(count: int) -> torch.storage.TypedStorage:
    return torch.storage.TypedStorage(
        wrap_storage=torch.zeros(count).untyped_storage(), dtype=torch.float32, _internal=True
    )


def rebuilt(size: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, count: int = 2) -> Reduced:
    """A tensor of this size and stride, whatever its storage holds."""
    return Reduced(_rebuild_tensor_v2, storage_of(count), offset, size, stride, False, OrderedDict())


def saved(path: Path, values: Any) -> Path:
    torch.save(values, path)
    return path


def read(path: Path, *, stand_ins: bool = False) -> Any:
    """In no more memory than a gigabyte above what there is."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return read_pickled(path, error=CheckpointError, what="a checkpoint", stand_ins=stand_ins)
    finally:
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GIGABYTE


def test_sound_checkpoints_come_back_as_they_were(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    optimiser = torch.optim.AdamW([torch.nn.Parameter(weight.clone())])
    values = {
        "state": OrderedDict(a=weight, tied=weight, turned=weight.T, part=weight[1:], empty=torch.zeros(0, 3)),
        "parameter": torch.nn.Parameter(weight),
        "optimiser": optimiser.state_dict(),
        "others": [1, 2.5, None, "x", (True, {"y"}), torch.bfloat16, torch.Size([3]), b"bytes"],
        "half": torch.ones(2, dtype=torch.float16),
    }
    found = read(saved(tmp_path / "c.pt", values))
    assert found["others"] == values["others"]
    assert found["state"].keys() == values["state"].keys()
    assert all(torch.equal(found["state"][name], tensor) for name, tensor in values["state"].items())
    assert isinstance(found["parameter"], torch.nn.Parameter)
    assert found["half"].dtype == torch.float16
    assert found["optimiser"] == values["optimiser"]


def test_what_was_read_does_not_depend_on_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"a": torch.arange(50_000.0)})
    found = read(path)
    os.truncate(path, 0)  # a tensor that is only mapped would end the process here
    assert torch.equal(found["a"], torch.arange(50_000.0))


EXPLODING = {
    "stride 0": lambda: torch.zeros(1).expand(10**9),
    "stride 0, rebuilt": lambda: rebuilt((1500, 1_000_000), (0, 0)),
    "stride 0 in one dimension": lambda: rebuilt((10**9, 2), (0, 1)),
    "overlapping windows": lambda: torch.zeros(10_000).unfold(0, 5_000, 1),
    "beyond the storage": lambda: rebuilt((10**10,), (1,)),
    "one number beyond": lambda: rebuilt((3,), (1,)),
    "offset beyond": lambda: rebuilt((1,), (1,), offset=2),
    "a far offset": lambda: rebuilt((1,), (1,), offset=2**60),
    "a far stride": lambda: rebuilt((2,), (2**61,)),
    "negative": lambda: rebuilt((-1,), (1,)),
    "an endless Tensor": lambda: Reduced(torch.Tensor, 10**12),
    "an endless bytearray": lambda: Reduced(bytearray, 10**12),
    "a quantised one": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    "a sparse one": lambda: torch.zeros(3, 3).to_sparse(),
    "many views": lambda: [base[start:] for base in [torch.zeros(100_000)] for start in range(500)],
    "one without memory": lambda: torch.empty(10**12, device="meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stand_ins", [False, True])
@pytest.mark.parametrize("make", EXPLODING.values(), ids=EXPLODING)
def test_tensors_that_claim_more_than_the_file_holds(make: Callable[[], Any], stand_ins: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"deep": [{"a": make()}]})
    with pytest.raises(CheckpointError, match="try: ") as caught:
        read(path, stand_ins=stand_ins)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("stand_ins", [False, True])
@pytest.mark.parametrize("join", [b"\x86", b"\x87"], ids=["two", "three"])
def test_a_key_of_tuples_within_tuples_is_not_hashed(join: bytes, stand_ins: bool, tmp_path: Path) -> None:
    """Sixty, each of which holds the one before it twice or three times: 2**60 steps."""
    times = 2 if join == b"\x86" else 3
    content = b"\x80\x02)q\x00"
    for number in range(60):
        content += (b"h" + bytes([number])) * times + join + b"q" + bytes([number + 1])
    content += b"}h\x3cK\x01s."  # {the last one: 1}
    saved(tmp_path / "sound.pt", {"a": 1})
    with zipfile.ZipFile(tmp_path / "sound.pt") as old, zipfile.ZipFile(tmp_path / "c.pt", "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, content if member.filename.endswith("data.pkl") else old.read(member))
    with pytest.raises(CheckpointError, match="stands for more than"):
        read(tmp_path / "c.pt", stand_ins=stand_ins)


CODE = {
    "system": lambda: Reduced(os.system, "touch it_ran"),
    "eval": lambda: Reduced(eval, "open('it_ran', 'w')"),
    "exec": lambda: Reduced(exec, "open('it_ran', 'w')"),
    "open": lambda: Reduced(open, "it_ran", "w"),
    "mkdir of pathlib's own": lambda: Reduced(Path.touch, Path("it_ran")),
    "a loader of torch": lambda: Reduced(torch.load, "it_ran"),
    "a hub of torch": lambda: Reduced(torch.hub.load, "it", "ran"),
    "numpy's loader": lambda: Reduced(np.load, "it_ran"),
    "getattr": lambda: Reduced(getattr, "x", "upper"),
}


@pytest.mark.parametrize("make", CODE.values(), ids=CODE)
def test_code_is_not_run_and_worth_an_error(
    make: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "c.pt", {"a": torch.zeros(3), "b": make()})
    for stand_ins in (False, True):
        with pytest.raises(CheckpointError, match="nothing of it was run"):
            read(path, stand_ins=stand_ins)
    assert not (tmp_path / "it_ran").exists()


def test_classes_of_other_programs_are_inert_where_that_is_wanted(tmp_path: Path) -> None:
    values = {
        "a": torch.ones(3),
        "b": defaultdict(dict, {"x": 1}),
        "c": Path("x"),
        "d": np.float64(3),
        "e": Any,
        "f": dict,
    }
    path = saved(tmp_path / "c.pt", values)
    assert torch.equal(read(path, stand_ins=True)["a"], torch.ones(3))
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read(path)


def rewritten(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None]) -> Path:
    """The same archive, written by `change`(old, new)."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
        change(old, new)
    return path


def compressed(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
    for member in old.infolist():
        new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED)


def repeated(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
    for member in old.infolist():
        if member.filename.endswith("data.pkl"):
            new.writestr(member.filename.upper(), b"x")  # torch does not tell upper case from lower
        new.writestr(member.filename, old.read(member))


def short(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
    for member in old.infolist():
        content = old.read(member)
        new.writestr(member.filename, content[:8] if "/data/" in member.filename else content)


@pytest.mark.parametrize("change", [compressed, repeated, short])
def test_archives_that_torch_save_does_not_write(change: Any, tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path / "c.pt", {"a": torch.zeros(2**20)}), change)
    with pytest.raises(CheckpointError, match="try: "):
        read(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_cut_checkpoints(share: float, tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"a": torch.zeros(1_000)})
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    for reader in (read, lambda path: read_safetensors(path, error=CheckpointError, what="weights", remedy="none")):
        with pytest.raises(CheckpointError, match="file"):
            reader(path)


@pytest.mark.parametrize("name", ["model.ckpt", "music2latent.pt", "codicodec.pt"])
@pytest.mark.parametrize("make", [lambda: rebuilt((1500, 1_000_000), (0, 0)), lambda: Reduced(bytearray, 10**12)])
def test_weights_of_the_families_go_the_same_way(name: str, make: Callable[[], Any], tmp_path: Path) -> None:
    path = saved(tmp_path / name, {"state_dict": {"a": torch.ones(3), "b": make()}})
    with pytest.raises(AutoencoderError, match=name):
        read_tensors(path, inside="state_dict")
    for values in ([torch.ones(3)], torch.ones(3), {"state_dict": [1]}, 3):
        with pytest.raises(AutoencoderError, match="no tensors by name"):
            read_tensors(saved(path, values), inside="state_dict")


def test_an_aero_that_is_all_stride(tmp_path: Path) -> None:
    """6 GB of 218 bytes of tensors."""
    generator = {"kwargs": {}, "state": {"encoder.0.pre_conv.weight": rebuilt((1500, 1_000_000), (0, 0))}}
    path = saved(tmp_path / "checkpoint.th", {"models": {"generator": generator}})
    with pytest.raises(CheckpointError, match="claims more"):
        load_aero_weights(path)


SIZES = [
    {"channels": 10**9}, {"channels": "48"}, {"channels": True}, {"surprise": 1}, {"channels": None}, {"channels": -4},
]  # fmt: skip


@pytest.mark.parametrize("sizes", [*SIZES, {"strides": [2] * 10_000}, {"n_fft": 2**50}, {"low_rate": 0}])
def test_sizes_of_an_aero_that_are_nonsense(sizes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_baseline(path, {"a": torch.zeros(3)}, kind="aero", sizes=sizes, training={})
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        load_aero_weights(path)


@pytest.mark.parametrize("sizes", [*SIZES, {"block_kernels": [10**9]}, {"mel_bands": 10**9}, {"rates": [256] * 9_999}])
def test_sizes_of_a_musichifi_that_are_nonsense(sizes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_baseline(path, {"a": torch.zeros(3)}, kind="musichifi_bwe", sizes=sizes, training={})
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_musichifi(path, task="bwe")


def test_a_baseline_s_header_that_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for text in ("[" * 200_000, "[]", "null", '{"baseline": "aero"}', '{"baseline": ["\\u001b"], "format": 1}'):
        safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata={"reencoder": text})
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            load_aero_weights(path)
