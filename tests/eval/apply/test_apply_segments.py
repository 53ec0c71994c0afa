"""Pieces make the same as the whole; a crossover gives the original back; scratch holds what was put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from applied import filled, noise, random_module, whole
from reencoder_eval.apply import segments
from reencoder_eval.apply.crossover import crossed
from reencoder_eval.apply.files import scratch as scratch_module
from reencoder_eval.apply.files.scratch import Scratch, downmixed, resampled
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.latents import LatentSpec

SPEC = LatentSpec("tiny", "abc", sample_rate=44_100, hop=1024, channels=4)


@pytest.fixture(params=[100, 64 * 2**20], ids=["on disk", "in memory"])
def in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_module, "IN_MEMORY", request.param)


@pytest.mark.usefixtures("in_memory")
def test_scratch_reads_anywhere_what_was_appended(tmp_path: Path) -> None:
    values = noise(3, 2500)
    with filled(values, tmp_path, by=700) as scratch:
        np.testing.assert_array_equal(scratch.read(650, 2450), values[:, 650:2450])
        np.testing.assert_array_equal(scratch.read(0, 10), values[:, :10])
        scratch.append(values[:, :5])
        np.testing.assert_array_equal(scratch.read(2495, 2505), np.concatenate([values[:, -5:], values[:, :5]], 1))
    assert not list(tmp_path.iterdir()), "no end of the process may leave scratch behind"


@pytest.mark.parametrize("length", [1, 2, 7, 50])
def test_beyond_its_ends_a_signal_is_its_mirror_image(length: int, tmp_path: Path) -> None:
    values = noise(2, length)
    mirrored = filled(values, tmp_path).read_mirrored(-30, length + 40)
    np.testing.assert_array_equal(
        mirrored, np.pad(values, ((0, 0), (30, 40)), mode="reflect" if length > 1 else "edge")
    )


@pytest.mark.parametrize(("rate", "new_rate"), [(22_050, 44_100), (48_000, 44_100), (44_100, 22_050), (8_000, 44_100)])
def test_resampling_in_blocks_is_resampling(
    rate: int, new_rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = noise(2, 9_001)
    monkeypatch.setattr(Scratch.blocks, "__defaults__", (1000,))
    output = whole(resampled(filled(values, tmp_path), rate, new_rate))
    np.testing.assert_allclose(output, resample(values, rate, new_rate), atol=1e-6)


def test_one_sample_can_be_resampled_and_mixed_down(tmp_path: Path) -> None:
    one = filled(np.array([[0.5], [0.25]], dtype=np.float32), tmp_path)
    assert whole(resampled(one, 48_000, 44_100)).shape == (2, 1)
    assert whole(downmixed(one)) == 0.375


@pytest.fixture(scope="module")
def autoencoder(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


@pytest.mark.parametrize("num_samples", [1, 200, 256 * 40, 256 * 700 + 3])
def test_encoding_and_decoding_in_segments_equal_single_calls(
    num_samples: int, autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise(2, num_samples)
    margin = segments.margin_frames(autoencoder)
    made = []
    for seconds in (0.5, 1e9):
        monkeypatch.setattr(segments, "SEGMENT_SECONDS", seconds)
        num_frames = margin + autoencoder.spec.num_frames(num_samples) + margin
        start = -margin * autoencoder.spec.hop
        scratch = filled(audio, tmp_path)
        latents = segments.encoded(autoencoder, scratch, start=start, num_frames=num_frames, device="cpu")
        sound = segments.decoded(autoencoder, latents, margin=margin, num_samples=num_samples, device="cpu")
        assert whole(sound).shape == audio.shape
        made.append((whole(latents), whole(sound)))
    for in_segments, at_once in zip(*made, strict=True):
        np.testing.assert_allclose(in_segments, at_once, atol=2e-5)
    # Away from the ends the margin changes nothing: these are the autoencoder's own latents.
    own = autoencoder.encode(torch.from_numpy(audio)[:, None]).flatten(0, 1).numpy()
    inner = slice(autoencoder.context, own.shape[1] - autoencoder.context)
    np.testing.assert_allclose(made[0][0][:, margin : margin + own.shape[1]][:, inner], own[:, inner], atol=2e-5)


@pytest.mark.parametrize("num_frames", [1, 40, 213, 214, 400, 1001])
def test_a_module_with_response_frames_is_the_same_in_windows(num_frames: int, tmp_path: Path) -> None:
    trained, latents = random_module(SPEC, response_frames=5), noise(8, num_frames)
    window = 120
    output = whole(
        segments.through_module(trained, filled(latents, tmp_path), condition=None, device="cpu", window=window)
    )
    batch = torch.from_numpy(latents).reshape(2, 4, -1)
    np.testing.assert_allclose(output, trained(batch).reshape(8, -1).numpy(), atol=1e-5)


def test_an_ordinary_module_in_windows_has_no_seam(tmp_path: Path) -> None:
    """Its normalisation differs from window to window. Where they meet, the output may not jump more than elsewhere."""
    trained, time = random_module(SPEC), np.arange(2000, dtype=np.float32)
    # Smooth latents whose level changes slowly, so that windows differ, and frames hardly do.
    latents = np.stack([(1 + time / 300) * np.sin(time / 40 + channel) for channel in range(4)]).astype(np.float32)
    scratch = filled(latents, tmp_path)
    output = whole(segments.through_module(trained, scratch, condition=None, device="cpu", window=150))
    at_once = trained(torch.from_numpy(latents)[None])[0].numpy()
    assert np.abs(output - at_once).max() > 1e-3, "the windows do not differ: this test sees nothing"
    inner = slice(20, -20)
    jumps = np.abs(np.diff(output[:, inner], n=2)).max(), np.abs(np.diff(at_once[:, inner], n=2)).max()
    assert jumps[0] < 2 * jumps[1]


def test_a_module_sees_the_windows_that_are_promised(tmp_path: Path) -> None:
    """What a single call would make of a track no longer than a window is what comes out."""
    trained, latents = random_module(SPEC, task="m2s"), noise(4, 300)
    output = whole(segments.through_module(trained, filled(latents, tmp_path), condition=None, device="cpu"))
    np.testing.assert_allclose(output, trained(torch.from_numpy(latents)[None])[0].numpy(), atol=1e-6)


def test_the_crossover_gives_the_original_back_below_and_the_estimate_above(tmp_path: Path) -> None:
    rate, edge, length = 44_100, 9_600.0, 44_100
    time = np.arange(length) / rate
    low, high = np.sin(2 * np.pi * 3_000 * time), np.sin(2 * np.pi * 12_000 * time)
    original = (0.3 * low + 0.2 * high)[None].astype(np.float32)
    # Another phase and level below, as an autoencoder has them, and another tone above.
    estimate = (0.25 * np.roll(low, 3) + 0.1 * np.sin(2 * np.pi * 15_000 * time))[None].astype(np.float32)
    x, y = filled(original, tmp_path), filled(estimate, tmp_path)
    pieces = [crossed(x, y, s, min(s + 7000, length), edge_hz=edge, sample_rate=rate) for s in range(0, length, 7000)]
    output = np.concatenate(pieces, axis=1)[0]
    wanted = 0.3 * low + 0.1 * np.sin(2 * np.pi * 15_000 * time)
    inner = slice(500, -500)
    error = 10 * np.log10(np.mean(np.square(output - wanted)[inner]) / np.mean(np.square(0.3 * low)))
    assert error < -85


def test_where_original_and_estimate_agree_the_crossover_changes_nothing(tmp_path: Path) -> None:
    audio = noise(2, 5_000)
    one, same = filled(audio, tmp_path), filled(audio, tmp_path)
    np.testing.assert_array_equal(crossed(one, same, 0, 5_000, edge_hz=9_000.0, sample_rate=44_100), audio)
