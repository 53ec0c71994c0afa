"""A module says how its inputs were made and how much it saw at a time; early files mean 22,050 Hz and 1.4 s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from changed_module import changed_module, read_parts
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_trainer.release.module_card import module_config, render_card
from reencoder_trainer.trained_module import LowBand, load_module, save_module
from tiny_cache import SPEC, write_cache
from trained_modules import make_trained
from training_run import run


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("module") / "module.safetensors"
    save_module(make_trained(task="bwe"), path)
    return path


def cache_of(folder: Path, **low_band: object) -> Path:
    """A cache whose index says that `low_band` was made in this way."""
    path = write_cache(folder)
    index = json.loads((path / "index.json").read_text())
    index["low_band"] = {"rate": 22_050, "resampler": "soxr_vhq", **low_band}
    index.pop("digest", None)
    (path / "index.json").write_text(json.dumps({**index, "digest": canonical_digest(index)}))
    return path


@pytest.mark.parametrize(
    ("low_band", "seconds", "expected"),
    [
        ({"rate": 11_025}, 0.7, LowBand(11_025, "soxr_vhq")),
        ({"resampler": "torchaudio_default"}, 0.5, LowBand(22_050, "torchaudio_default")),
        ({"rate": "unknown", "resampler": "unknown"}, 0.7, LowBand(None, None)),
        ({"rate": "unknown"}, 0.7, LowBand(None, "soxr_vhq")),
    ],
)
def test_training_writes_what_the_index_says(
    low_band: dict[str, object], seconds: float, expected: LowBand, tmp_path: Path
) -> None:
    done = run(cache_of(tmp_path / "cache", **low_band), tmp_path / "run", steps=1, window_seconds=seconds)
    trained = load_module(done.module)
    assert trained.low_band == expected
    assert trained.window == trained.window_frames == SPEC.frames_in(seconds)
    save_module(trained.to("cpu"), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == done.module.read_bytes()
    rate, resampler = expected.rate or 22_050, (expected.resampler or "soxr_vhq").replace("_", r"\_")
    card = render_card(trained, name=None, licence=None)
    assert f"reduced to {rate:,} Hz and back by {resampler}" in card
    assert ("(assumed: " in card) == (expected.rate is None)
    assert f"| training windows | {trained.window} frames, " in card
    assert module_config(trained)["low_band"] == {"rate": expected.rate, "resampler": expected.resampler}


def test_files_of_the_first_version_mean_22_050_hz_soxr_and_windows_of_1_4_s(module: Path, tmp_path: Path) -> None:
    def forget(header: dict[str, Any], _: object) -> None:
        del header["low_band"], header["window_frames"]

    early = load_module(changed_module(module, tmp_path / "early.safetensors", forget))
    assert early.low_band == LowBand(22_050, "soxr_vhq")
    assert early.window == early.spec.frames_in(1.4) == 60
    save_module(early, tmp_path / "again.safetensors")
    assert read_parts(tmp_path / "again.safetensors")[0]["window_frames"] == 60, "once written, it is said"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("low_band", None),
        ("low_band", {"rate": 10**30, "resampler": "soxr_vhq"}),
        ("low_band", {"rate": "22050", "resampler": "soxr_vhq"}),
        ("low_band", {"rate": 0, "resampler": "soxr_vhq"}),
        ("low_band", {"rate": 22_050, "resampler": "os:system"}),
        ("low_band", {"rate": 22_050, "resampler": "soxr_vhq", "more": 1}),
        ("window_frames", 0),
        ("window_frames", 10**30),
        ("window_frames", 1.5),
        ("window_frames", True),
    ],
)
def test_malformed_fields_are_refused(name: str, value: object, module: Path, tmp_path: Path) -> None:
    changed = changed_module(module, tmp_path / "changed.safetensors", lambda header, _: header.update({name: value}))
    with pytest.raises(CheckpointError, match=rf"does not describe a module\n  found: {name}"):
        load_module(changed)
