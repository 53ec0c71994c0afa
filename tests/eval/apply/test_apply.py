"""`reencoder-apply`: modules on files, from the command line to what lies on the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from applied import RATE, Place, level, low_music, lowpassed, mono, read
from reencoder_eval.apply import run
from reencoder_eval.apply.decision import Decision
from reencoder_eval.apply.files.latents_io import read_latents
from reencoder_eval.apply.files.reading import opened
from reencoder_eval.apply.make import MirroredSound
from reencoder_pipeline.audio.resampling import low_band, resample
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.autoencoders.vocos.autoencoder import VocosAutoencoder
from reencoder_pipeline.errors import CacheError, CheckpointError, ConfigError, ReencoderError
from reencoder_trainer.trained_module import LowBand, load_module, save_module
from tiny_build import music


def test_upsampling_is_the_module_between_encoder_and_decoder(place: Place) -> None:
    """Away from the ends, where a mirror image is put on, it is what an evaluation makes of the same file."""
    audio = low_music(channels=2)
    path = place.write("a.wav", audio, 22_050, subtype="FLOAT")
    [outcome] = place.apply(path, upsample=place.bwe, crossover=False)
    output = read(outcome.outputs[0])
    coder, trained = load_autoencoder(str(place.autoencoder)), load_module(place.bwe)
    with torch.inference_mode():
        latents = coder.encode(torch.from_numpy(resample(audio, 22_050, RATE))[:, None])
        expected = coder.decode(trained(latents))[:, 0].numpy()
    assert soundfile.info(outcome.outputs[0]).samplerate == RATE
    assert output.shape == (2, 2 * audio.shape[1])
    inner = slice(2 * coder.context * coder.spec.hop, -2 * coder.context * coder.spec.hop)
    assert expected[:, inner].shape[1] > 10_000, "there is something to compare"
    np.testing.assert_allclose(output[:, inner], expected[:, : output.shape[1]][:, inner], atol=1e-4)


def test_an_autoencoder_that_looks_at_whole_pieces_is_said_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.write("a.wav", low_music(channels=1), 22_050)
    monkeypatch.setattr(run, "SEGMENT_SECONDS", 1.0)
    [quiet] = place.apply(path, upsample=place.bwe)
    monkeypatch.setattr(VocosAutoencoder, "local", False)
    [said] = place.apply(path, upsample=place.bwe, overwrite=True)
    text = "the autoencoder looks at whole pieces: segments of 1 s are close to them, not equal"
    assert (text in quiet.notices, text in said.notices) == (False, True)


@pytest.mark.parametrize(
    ("rate", "resampler"), [(22_050, "soxr_vhq"), (11_025, "soxr_vhq"), (11_025, "torchaudio_default")]
)
def test_a_cut_off_input_is_low_passed_first_and_keeps_its_own_band(rate: int, resampler: str, place: Place) -> None:
    """13 kHz of it: the module is given what it is trained on, and the crossover lies at the input's own end."""
    cut = resample(resample(music(seconds=1.5, channels=1), RATE, 28_000), 28_000, RATE)
    path = place.write("a.wav", cut, subtype="FLOAT")
    module = place.folder / "module.safetensors"
    save_module(replace(load_module(place.bwe), low_band=LowBand(rate, resampler)), module)
    [kept] = place.apply(path, upsample=module)
    [bare] = place.apply(path, upsample=module, crossover=False, out="bare")
    coder = load_autoencoder(str(place.autoencoder))
    with torch.inference_mode():
        low = low_band(cut, sample_rate=RATE, low_rate=rate, resampler=resampler)
        latents = coder.encode(torch.from_numpy(low)[None])
        expected = coder.decode(load_module(place.bwe)(latents))[0].numpy()
    inner = slice(2 * coder.context * coder.spec.hop, -2 * coder.context * coder.spec.hop)
    np.testing.assert_allclose(read(bare.outputs[0])[:, inner], expected[:, : cut.shape[1]][:, inner], atol=1e-4)
    below = level(lowpassed(read(kept.outputs[0]) - cut, 12_000)) - level(lowpassed(cut, 12_000))
    assert below < -80, "the original band comes back"
    assert level(lowpassed(read(bare.outputs[0]) - cut, 12_000)) - level(lowpassed(cut, 12_000)) > -20


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
def test_the_ends_of_a_sound_are_no_cuts(rate: int, place: Place) -> None:
    """Two tones that are cut off in their middle: what is encoded has no click there, as with silence around it."""
    time = np.arange(rate) / rate
    tone = (0.4 * np.sin(2 * np.pi * 1_000 * time + 1) + 0.2 * np.sin(2 * np.pi * 3_000 * time + 2))[None]
    path = place.write("a.wav", tone.astype(np.float32), rate, subtype="FLOAT")
    with opened(path, folder=place.folder) as sound:
        coder = load_autoencoder(str(place.autoencoder))
        source = MirroredSound.of(sound, Decision(True, False, 8_000, ()), coder)
        wide = source.wide.read(0, len(source.wide))
    assert source.num_samples == RATE
    assert source.lead >= source.margin * coder.spec.hop
    own = wide[:, source.lead : source.lead + RATE]
    there = np.arange(RATE) / RATE
    wanted = 0.4 * np.sin(2 * np.pi * 1_000 * there + 1) + 0.2 * np.sin(2 * np.pi * 3_000 * there + 2)
    assert level(own[0] - wanted) < -50, "in time, and whole up to its ends"
    among_silence = np.pad(resample(tone.astype(np.float32), rate, RATE), ((0, 0), (10, 10)))
    around = wide[:, source.lead - 10 : source.lead + RATE + 10]
    assert np.abs(np.diff(around, n=2)).max() < 0.5 * np.abs(np.diff(among_silence, n=2)).max(), "no click"


@pytest.mark.parametrize(("rate", "said"), [(22_050, "11 kHz"), (11_025, None), (None, "11 kHz")])
def test_what_is_said_of_a_band_goes_by_what_the_module_was_trained_on(
    rate: int | None, said: str | None, place: Place
) -> None:
    path = place.write("a.wav", low_music(rate=11_025), 11_025)
    module = place.folder / "module.safetensors"
    save_module(replace(load_module(place.bwe), low_band=LowBand(rate, None if rate is None else "soxr_vhq")), module)
    [outcome] = place.apply(path, upsample=module)
    about = "; ".join(outcome.notices)
    expected = "" if said is None else f"between there and {said}, where the module starts, little is restored"
    assert (expected or "little is restored") in about if said else "little is restored" not in about
    assert ("does not know how its inputs were made: taken as 22050 Hz" in about) == (rate is None)


def test_rates_above_the_autoencoders_come_back(place: Place) -> None:
    audio = resample(low_music(), 22_050, 48_000)
    [outcome] = place.apply(place.write("a.flac", audio, 48_000), upsample=place.bwe)
    assert soundfile.info(outcome.outputs[0]).samplerate == 48_000
    assert read(outcome.outputs[0]).shape == audio.shape


def test_what_needs_no_work_is_copied_to_the_byte(place: Place) -> None:
    full = place.write("tree/full.mp3", music(seconds=2, channels=2))
    [outcome] = place.apply(full.parent.parent, upsample=place.bwe)
    assert outcome.status == "copied"
    assert (place.folder / "out" / "tree" / "full.mp3").read_bytes() == full.read_bytes()
    [outcome] = place.apply(place.write("stereo.wav", music(seconds=1)), upmix=place.m2s)
    assert outcome.status == "copied"
    assert "stereo already" in outcome.notices[0]
    [outcome] = place.apply(place.write("silent.wav", np.zeros((1, 9000))), upmix=place.m2s)
    assert (outcome.status, outcome.notices) == ("copied", ["silent"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"upmix": "plain_m2s", "seed": 1}, ConfigError, "takes no condition"),
        ({"upmix": "plain_m2s", "variants": 2}, ConfigError, "takes no condition"),
        ({"upmix": "m2s", "share": 0.5}, ConfigError, "needs a reference"),
        ({"upmix": "bwe"}, CheckpointError, "upsample is its command"),
        ({"upsample": "m2s"}, CheckpointError, "upmix is its command"),
        ({"upsample": "bwe", "autoencoder": "house"}, CacheError, "different autoencoders"),
        ({"upsample": "bwe", "autoencoder": None}, ReencoderError, "--autoencoder NAME"),
        ({"upsample": "bwe", "device": "tpu"}, ConfigError, "unknown device"),
    ],
)
def test_what_concerns_all_files_is_an_error_before_the_first(
    settings: dict[str, Any], error: type[Exception], message: str, place: Place
) -> None:
    path = place.write("a.wav", mono(0.1))
    paths = {name: getattr(place, value) for name, value in settings.items() if name in ("upsample", "upmix")}
    with pytest.raises(error, match=message):
        place.apply(path, **{**settings, **paths})


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_latents_in_and_out_without_an_autoencoder(form: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.write("a.wav", low_music(channels=2), 22_050)
    [made] = place.apply(path, upsample=place.bwe, latents=form)
    assert "stereo already" not in made.notices

    def unwanted(*arguments: object, **settings: object) -> None:
        raise AssertionError("nothing is decoded")

    monkeypatch.setattr(run, "load_own_autoencoder", unwanted)
    first = read_latents(Path(made.outputs[0]))
    [outcome] = place.apply(Path(made.outputs[0]), upsample=place.bwe, out="again")
    again = read_latents(Path(outcome.outputs[0]))
    assert again.streams == ("left", "right")
    assert again.spec == first.spec == load_module(place.bwe).spec
    batch = torch.tensor(np.array(first.values)).unflatten(0, (2, -1))
    np.testing.assert_allclose(again.values, load_module(place.bwe)(batch).flatten(0, 1), atol=1e-5)
    [refused] = place.apply(Path(made.outputs[0]), upmix=place.m2s, out="refused")
    assert "not the latents that this module takes" in str(refused.error)
    [refused] = place.apply(Path(made.outputs[0]), upmix=place.m2s, width=2.0, out="refused")
    assert "--width" in str(refused.error)


def test_latents_of_another_autoencoder_are_refused(place: Place) -> None:
    folder = place.folder / "in"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((8, 20), dtype=np.float32))
    [unsaid] = place.apply(folder / "a.npy", upsample=place.bwe, out="unsaid")
    assert unsaid.status == "done"
    assert "taken as the module's" in unsaid.notices[0]
    spec = {**load_module(place.bwe).spec.to_dict(), "weights": "other"}
    (folder / "a.json").write_text(json.dumps({"spec": spec}))
    [refused] = place.apply(folder / "a.npy", upsample=place.bwe)
    assert "different autoencoders" in str(refused.error)
