"""Mono to stereo: mixes, width, seeds and references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from applied import RATE, Place, level, low_music, lowpassed, mono, read
from reencoder_eval.apply.conditions import condition_like
from reencoder_eval.apply.files.writing import Form
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.errors import ReencoderError
from reencoder_trainer.trained_module import load_module
from tiny_build import music


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("rate", [RATE, 32_000])
def test_mono_compatible_is_exact(place: Place, rate: int, subtype: str) -> None:
    path = place.write("a.wav", 0.3 * mono(), rate, subtype=subtype)
    [outcome] = place.apply(path, upmix=place.plain_m2s, mono_compatible=True, width=0.2)
    assert not outcome.notices, "nothing was turned down"
    left, right = soundfile.read(outcome.outputs[0], dtype="int32")[0].T.astype(np.int64)
    np.testing.assert_array_equal((left + right) / 2, soundfile.read(path, dtype="int32")[0])
    assert (left != right).mean() > 0.9


def test_width_scales_the_side_alone(place: Place) -> None:
    path = place.write("a.wav", mono(), subtype="FLOAT")
    made = [
        read(place.apply(path, upmix=place.plain_m2s, width=width, out=f"{width}")[0].outputs[0])
        for width in (1.0, 0.5, 0.0)
    ]
    mid, side = [(one[0] + one[1]) / 2 for one in made], [(one[0] - one[1]) / 2 for one in made]
    assert level(side[0]) > -60
    np.testing.assert_allclose(mid[1], mid[0], atol=1e-6)
    np.testing.assert_allclose(side[1], 0.5 * side[0], atol=1e-6)
    assert not side[2].any()


def test_equal_channels_are_mixed_down_and_true_stereo_only_by_force(place: Place) -> None:
    one, stereo = mono(), music(seconds=1.5)
    [first] = place.apply(place.write("a.wav", one, subtype="FLOAT"), upmix=place.plain_m2s)
    [same] = place.apply(place.write("b.wav", one.repeat(2, axis=0), subtype="FLOAT"), upmix=place.plain_m2s)
    np.testing.assert_array_equal(read(first.outputs[0]), read(same.outputs[0]))
    path = place.write("c.wav", stereo, subtype="FLOAT")
    [forced] = place.apply(path, upmix=place.plain_m2s, force=True, mono_compatible=True)
    np.testing.assert_allclose(read(forced.outputs[0]).mean(axis=0), stereo.mean(axis=0), atol=1e-6)


def test_seeds_variants_and_likeness(place: Place) -> None:
    path = place.write("a.wav", mono())
    like = place.write("like.wav", music(seconds=5, seed=3))
    settings: dict[str, Any] = {"upmix": place.m2s, "form": Form(depth="float")}

    def made(out: str, **more: Any) -> list[np.ndarray]:
        [outcome] = place.apply(path, out=out, **settings, **more)
        assert outcome.status == "done", outcome
        return [read(one) for one in outcome.outputs]

    variants = made("variants", variants=2, seed=7)
    assert sorted(one.name for one in (place.folder / "variants").iterdir()) == ["a_seed7.wav", "a_seed8.wav"]
    np.testing.assert_array_equal(made("seed", seed=8)[0], variants[1])
    [neutral], [alike], [far] = made("neutral"), made("like", like=like), made("far", like=like, share=0.0)
    np.testing.assert_array_equal(far, neutral)
    distinct = [*variants, neutral, alike]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(distinct) for b in distinct[:i])


@pytest.mark.parametrize("window", [25, 60, None, 10**9])
def test_a_reference_is_seen_through_windows_as_long_as_those_of_training(window: int | None, place: Place) -> None:
    """None: a module of the first version, which saw 1.4 s. A longer one than the recording is all of it."""
    like = place.write("like.wav", music(seconds=3, seed=3), subtype="FLOAT")
    coder = load_autoencoder(str(place.autoencoder))
    trained = replace(load_module(place.m2s), window_frames=window)
    found = condition_like(like, trained, coder, device="cpu", folder=place.folder)
    audio = torch.from_numpy(read(like)).float()
    with torch.inference_mode():
        latents = coder.encode(audio[:, None]).flatten(0, 1)[None]
        length = min(window or coder.spec.frames_in(1.4), latents.shape[-1])
        starts = [*range(0, latents.shape[-1] - length, length), latents.shape[-1] - length]
        means = torch.stack([trained.posterior(latents[..., start : start + length]).mean for start in starts])
    expected = means.mean(dim=0)
    assert (len(starts) > 1) == (window != 10**9)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_reference_must_be_stereo(place: Place) -> None:
    path = place.write("a.wav", mono(0.1))
    with pytest.raises(ReencoderError, match="the reference is not stereo"):
        place.apply(path, upmix=place.m2s, like=path)


def test_one_pass_for_both_is_the_two_modules_after_each_other(place: Place) -> None:
    path = place.write("a.wav", low_music(), 22_050, subtype="FLOAT")
    both = {"upsample": place.bwe, "upmix": place.plain_m2s, "crossover": False}
    [outcome] = place.apply(path, **both)
    [latents] = place.apply(path, upsample=place.bwe, latents="npy", out="latents")
    [stereo] = place.apply(Path(latents.outputs[0]), upmix=place.plain_m2s, out="stereo")
    values = np.load(stereo.outputs[0])
    coder = load_autoencoder(str(place.autoencoder))
    with torch.inference_mode():
        expected = coder.decode(torch.from_numpy(values).unflatten(0, (2, -1)))[:, 0].numpy()
    inner = slice(2 * coder.context * coder.spec.hop, -2 * coder.context * coder.spec.hop)
    output = read(outcome.outputs[0])
    np.testing.assert_allclose(output[:, inner], expected[:, : output.shape[1]][:, inner], atol=1e-4)
    # With the crossover the low band of the mid is the input's, and the side is as before.
    [crossed] = place.apply(path, **{**both, "crossover": True}, out="crossed")
    left, right = read(crossed.outputs[0])
    np.testing.assert_allclose(left - right, output[0] - output[1], atol=1e-5)
    original = resample(low_music(), 22_050, RATE)
    assert level(lowpassed((left + right)[None] / 2 - original, 8_500)) - level(original) < -80
