"""Rows on single clips: what a baseline is given after the autoencoder, and which condition a clip gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reencoder_eval.baselines.baseline import Baseline
from reencoder_eval.clips.read import Clip, ClipAudio
from reencoder_eval.systems.baseline_rows import baseline_systems
from reencoder_eval.systems.module_rows import module_systems
from reencoder_eval.systems.system import System, through_autoencoder
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.trained_module import TrainedModule, save_module
from tiny_build import music

RATE, MARGIN = 44_100, 2_048
RESAMPLER = "soxr_vhq"


@pytest.fixture(scope="module")
def autoencoder(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


def clip_audio(track: str = "a", *, seed: int = 0) -> ClipAudio:
    audio = music(seconds=0.5, seed=seed)
    mono = audio.mean(axis=0, keepdims=True)
    streams = {"mono": mono[0], "left": audio[0], "right": audio[1], "low_band": low_band(mono, sample_rate=RATE)[0]}
    return ClipAudio(Clip(track, Path(track), 0, len(mono[0]) - 2 * MARGIN, RATE), RATE, streams, margin=MARGIN)


def listening(given: list[np.ndarray], *, targets: int) -> Baseline:
    """A baseline that keeps what it is given, and makes silence."""

    def run(signals: np.ndarray, sample_rate: int) -> np.ndarray:
        assert sample_rate == RATE
        given.append(signals)
        return np.zeros((targets, signals.shape[1]), np.float32)

    task = "bwe" if targets == 1 else "m2s"
    return Baseline("listener", "Listener", "hears", task, "digest", run)


@pytest.mark.parametrize("low_rate", [22_050, 11_025])
def test_after_the_autoencoder_a_baseline_of_bwe_gets_the_low_band_of_the_decoded_full_band(
    low_rate: int, autoencoder: Autoencoder
) -> None:
    """Section 4.1: the full band is autoencoded, and the low band is made from what arrives, not the reverse."""
    given: list[np.ndarray] = []
    task, audio = get_task("bwe"), clip_audio()
    baseline = listening(given, targets=1)
    undistorted, after = baseline_systems(
        task, autoencoder, baseline, low_rate=low_rate, resampler=RESAMPLER, device="cpu"
    )
    run(undistorted, audio)
    run(after, audio)
    np.testing.assert_array_equal(given[0][0], audio.streams["low_band"])
    full, low = (through_autoencoder(autoencoder, [audio.streams[name]], device="cpu") for name in ("mono", "low_band"))
    np.testing.assert_allclose(given[1], low_band(full, sample_rate=RATE, low_rate=low_rate), atol=1e-6)
    scale = np.abs(given[1]).max()
    for reversed_order in (low, low_band(low, sample_rate=RATE, low_rate=low_rate)):
        assert np.abs(given[1] - reversed_order).max() > 0.05 * scale


def test_after_the_autoencoder_a_baseline_of_m2s_gets_the_decoded_mono(autoencoder: Autoencoder) -> None:
    given: list[np.ndarray] = []
    task, audio = get_task("m2s"), clip_audio()
    baseline = listening(given, targets=2)
    for system in baseline_systems(task, autoencoder, baseline, low_rate=22_050, resampler=RESAMPLER, device="cpu"):
        run(system, audio)
    mono = audio.streams["mono"]
    np.testing.assert_array_equal(given[0], mono[None])
    np.testing.assert_allclose(given[1], through_autoencoder(autoencoder, [mono], device="cpu"), atol=1e-6)
    assert np.abs(given[1] - given[0]).max() > 0.01


def test_every_clip_has_a_random_condition_of_its_own(autoencoder: Autoencoder, tmp_path: Path) -> None:
    """Clips of the same sound are told apart by their conditions alone; the oracle's condition is in the sound."""
    rows = {system.name.rpartition("=")[2]: system for system in conditioned(autoencoder, tmp_path, seed=0)}
    assert rows.keys() == {"0", "0.25", "0.5", "0.75", "1"}
    for share, differ in (("0", True), ("0.5", True), ("1", False)):
        outputs = [run(rows[share], clip_audio(track)) for track in ("a", "b", "c", "a")]
        np.testing.assert_array_equal(outputs[0], outputs[3], err_msg="a function of the seed and the clip")
        distances = [np.abs(outputs[i] - outputs[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))]
        assert all((distance > 1e-3) == differ for distance in distances), share


def test_another_seed_draws_other_conditions(autoencoder: Autoencoder, tmp_path: Path) -> None:
    outputs = [run(conditioned(autoencoder, tmp_path, seed=seed)[0], clip_audio()) for seed in (0, 1)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def conditioned(autoencoder: Autoencoder, folder: Path, *, seed: int) -> tuple[System, ...]:
    """The rows of a module that listens to its condition; that of the random one comes first."""
    spec = autoencoder.spec
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LatentModule(spec.channels, 2 * spec.channels, blocks=1, width=16, condition_channels=4)
        encoder = ConditionEncoder(2 * spec.channels, 4, blocks=1, width=16)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    scalings = (Scaling(torch.zeros(n, 1), torch.ones(n, 1)) for n in (spec.channels, 2 * spec.channels))
    trained = TrainedModule(network.eval(), get_task("m2s"), spec, Normalisation(*scalings), {}, encoder.eval())
    save_module(trained, folder / "module.safetensors")
    path = folder / "module.safetensors"
    return module_systems(get_task("m2s"), autoencoder, trained, label="M", path=path, seed=seed)


def run(system: System, audio: ClipAudio) -> np.ndarray:
    assert system.run is not None
    return system.run(audio)
