"""`reencoder-apply`: modules on files, from the command line to what lies on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_apply_segments import random_module
from torch import nn
from typer.testing import CliRunner

from reencoder_eval.apply import run
from reencoder_eval.apply.conditions import condition_like
from reencoder_eval.apply.decision import Decision
from reencoder_eval.apply.files.inputs import find_jobs
from reencoder_eval.apply.files.latents_io import read_latents
from reencoder_eval.apply.files.reading import opened
from reencoder_eval.apply.files.writing import Form
from reencoder_eval.apply.make import Source
from reencoder_eval.apply.run import Outcome, apply_to
from reencoder_eval.cli.apply import app
from reencoder_pipeline.audio.resampling import low_band, resample
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.autoencoders.vocos.autoencoder import VocosAutoencoder
from reencoder_pipeline.errors import CacheError, CheckpointError, ConfigError, ReencoderError
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.trained_module import LowBand, TrainedModule, load_module, save_module
from tiny_build import music

RATE = 44_100


@dataclass(frozen=True)
class Place:
    """A tiny autoencoder, modules for its latents, and a folder to work in."""

    folder: Path
    autoencoder: Path
    bwe: Path
    m2s: Path
    plain_m2s: Path

    def write(self, name: str, audio: np.ndarray, rate: int = RATE, *, subtype: str | None = None) -> Path:
        path = self.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, audio.T, rate, subtype=subtype)
        return path

    def apply(self, *inputs: Path, out: str = "out", **settings: Any) -> list[Outcome]:
        jobs = find_jobs([str(one) for one in inputs], out=self.folder / out, stdin=sys.stdin.buffer)
        modules = {"upsample_module": None, "upmix_module": None}
        settings = {**modules, "autoencoder": str(self.autoencoder), "device": "cpu", **settings}
        return list(apply_to(jobs, out=self.folder / out, **settings))


@pytest.fixture(scope="module")
def modules(tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    spec, folder = load_autoencoder(str(tiny_autoencoder)).spec, tmp_path_factory.mktemp("modules")
    plain = random_module(spec, task="m2s", response_frames=1)
    torch.manual_seed(1)
    module = LatentModule(spec.channels, 2 * spec.channels, blocks=1, width=12, condition_channels=3)
    encoder = ConditionEncoder(2 * spec.channels, 3, blocks=1, width=12)
    for parameter in [*module.parameters(), *encoder.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    made = {
        "bwe": random_module(spec, response_frames=1),
        "plain_m2s": plain,
        "m2s": TrainedModule(module.eval(), plain.task, spec, plain.normalisation, {"steps": 1}, encoder.eval()),
    }
    for name, trained in made.items():
        save_module(trained, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in made}


@pytest.fixture
def place(tmp_path: Path, tiny_autoencoder: Path, modules: dict[str, Path]) -> Place:
    return Place(tmp_path, tiny_autoencoder, **modules)


def low_music(seconds: float = 1.5, *, channels: int = 1, rate: int = 22_050) -> np.ndarray:
    """Music that reaches up to its Nyquist frequency."""
    return resample(music(seconds=seconds, channels=channels), RATE, rate)


def mono(seconds: float = 1.5) -> np.ndarray:
    return music(seconds=seconds, channels=1)


def read(path: Path | str) -> np.ndarray:
    return soundfile.read(path, dtype="float64", always_2d=True)[0].T


def level(audio: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(audio)) + 1e-30))


def test_upsampling_is_the_module_between_encoder_and_decoder(place: Place) -> None:
    """Away from the ends, where a mirror image is put on, it is what an evaluation makes of the same file."""
    audio = low_music(channels=2)
    path = place.write("a.wav", audio, 22_050, subtype="FLOAT")
    [outcome] = place.apply(path, upsample_module=place.bwe, crossover=False)
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
    [quiet] = place.apply(path, upsample_module=place.bwe)
    monkeypatch.setattr(VocosAutoencoder, "local", False)
    [said] = place.apply(path, upsample_module=place.bwe, overwrite=True)
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
    [kept] = place.apply(path, upsample_module=module)
    [bare] = place.apply(path, upsample_module=module, crossover=False, out="bare")
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
        source = Source.of(sound, Decision(True, False, 8_000, ()), coder)
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


def lowpassed(audio: np.ndarray, edge: float) -> np.ndarray:
    spectrum = np.fft.rfft(audio * np.hanning(audio.shape[1]))
    spectrum[:, np.fft.rfftfreq(audio.shape[1], 1 / RATE) > edge] = 0
    return np.fft.irfft(spectrum, audio.shape[1])


@pytest.mark.parametrize(("rate", "said"), [(22_050, "11 kHz"), (11_025, None), (None, "11 kHz")])
def test_what_is_said_of_a_band_goes_by_what_the_module_was_trained_on(
    rate: int | None, said: str | None, place: Place
) -> None:
    path = place.write("a.wav", low_music(rate=11_025), 11_025)
    module = place.folder / "module.safetensors"
    save_module(replace(load_module(place.bwe), low_band=LowBand(rate, None if rate is None else "soxr_vhq")), module)
    [outcome] = place.apply(path, upsample_module=module)
    about = "; ".join(outcome.notices)
    expected = "" if said is None else f"between there and {said}, where the module starts, little is restored"
    assert (expected or "little is restored") in about if said else "little is restored" not in about
    assert ("does not know how its inputs were made: taken as 22050 Hz" in about) == (rate is None)


def test_rates_above_the_autoencoders_come_back(place: Place) -> None:
    audio = resample(low_music(), 22_050, 48_000)
    [outcome] = place.apply(place.write("a.flac", audio, 48_000), upsample_module=place.bwe)
    assert soundfile.info(outcome.outputs[0]).samplerate == 48_000
    assert read(outcome.outputs[0]).shape == audio.shape


def test_what_needs_no_work_is_copied_to_the_byte(place: Place) -> None:
    full = place.write("tree/full.mp3", music(seconds=2, channels=2))
    [outcome] = place.apply(full.parent.parent, upsample_module=place.bwe)
    assert outcome.status == "copied"
    assert (place.folder / "out" / "tree" / "full.mp3").read_bytes() == full.read_bytes()
    [outcome] = place.apply(place.write("stereo.wav", music(seconds=1)), upmix_module=place.m2s)
    assert outcome.status == "copied"
    assert "stereo already" in outcome.notices[0]
    [outcome] = place.apply(place.write("silent.wav", np.zeros((1, 9000))), upmix_module=place.m2s)
    assert (outcome.status, outcome.notices) == ("copied", ["silent"])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("rate", [RATE, 32_000])
def test_mono_compatible_is_exact(place: Place, rate: int, subtype: str) -> None:
    path = place.write("a.wav", 0.3 * mono(), rate, subtype=subtype)
    [outcome] = place.apply(path, upmix_module=place.plain_m2s, mono_compatible=True, width=0.2)
    assert not outcome.notices, "nothing was turned down"
    left, right = soundfile.read(outcome.outputs[0], dtype="int32")[0].T.astype(np.int64)
    np.testing.assert_array_equal((left + right) / 2, soundfile.read(path, dtype="int32")[0])
    assert (left != right).mean() > 0.9


def test_width_scales_the_side_alone(place: Place) -> None:
    path = place.write("a.wav", mono(), subtype="FLOAT")
    made = [
        read(place.apply(path, upmix_module=place.plain_m2s, width=width, out=f"{width}")[0].outputs[0])
        for width in (1.0, 0.5, 0.0)
    ]
    mid, side = [(one[0] + one[1]) / 2 for one in made], [(one[0] - one[1]) / 2 for one in made]
    assert level(side[0]) > -60
    np.testing.assert_allclose(mid[1], mid[0], atol=1e-6)
    np.testing.assert_allclose(side[1], 0.5 * side[0], atol=1e-6)
    assert not side[2].any()


def test_equal_channels_are_mixed_down_and_true_stereo_only_by_force(place: Place) -> None:
    one, stereo = mono(), music(seconds=1.5)
    [first] = place.apply(place.write("a.wav", one, subtype="FLOAT"), upmix_module=place.plain_m2s)
    [same] = place.apply(place.write("b.wav", one.repeat(2, axis=0), subtype="FLOAT"), upmix_module=place.plain_m2s)
    np.testing.assert_array_equal(read(first.outputs[0]), read(same.outputs[0]))
    path = place.write("c.wav", stereo, subtype="FLOAT")
    [forced] = place.apply(path, upmix_module=place.plain_m2s, force=True, mono_compatible=True)
    np.testing.assert_allclose(read(forced.outputs[0]).mean(axis=0), stereo.mean(axis=0), atol=1e-6)


def test_seeds_variants_and_likeness(place: Place) -> None:
    path = place.write("a.wav", mono())
    like = place.write("like.wav", music(seconds=5, seed=3))
    settings: dict[str, Any] = {"upmix_module": place.m2s, "form": Form(depth="float")}

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


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"upmix_module": "plain_m2s", "seed": 1}, ConfigError, "takes no condition"),
        ({"upmix_module": "plain_m2s", "variants": 2}, ConfigError, "takes no condition"),
        ({"upmix_module": "m2s", "share": 0.5}, ConfigError, "nothing to go towards"),
        ({"upmix_module": "bwe"}, CheckpointError, "upsample is its command"),
        ({"upsample_module": "m2s"}, CheckpointError, "upmix is its command"),
        ({"upsample_module": "bwe", "autoencoder": "house"}, CacheError, "different autoencoders"),
        ({"upsample_module": "bwe", "autoencoder": None}, ReencoderError, "--autoencoder NAME"),
        ({"upsample_module": "bwe", "device": "tpu"}, ConfigError, "unknown device"),
    ],
)
def test_what_concerns_all_files_is_an_error_before_the_first(
    settings: dict[str, Any], error: type[Exception], message: str, place: Place
) -> None:
    path = place.write("a.wav", mono(0.1))
    paths = {name: getattr(place, value) for name, value in settings.items() if name.endswith("_module")}
    with pytest.raises(error, match=message):
        place.apply(path, **{**settings, **paths})


def test_a_reference_must_be_stereo(place: Place) -> None:
    path = place.write("a.wav", mono(0.1))
    with pytest.raises(ReencoderError, match="no stereo to be like"):
        place.apply(path, upmix_module=place.m2s, like=path)


def test_one_pass_for_both_is_the_two_modules_after_each_other(place: Place) -> None:
    path = place.write("a.wav", low_music(), 22_050, subtype="FLOAT")
    both = {"upsample_module": place.bwe, "upmix_module": place.plain_m2s, "crossover": False}
    [outcome] = place.apply(path, **both)
    [latents] = place.apply(path, upsample_module=place.bwe, latents="npy", out="latents")
    [stereo] = place.apply(Path(latents.outputs[0]), upmix_module=place.plain_m2s, out="stereo")
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


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_latents_in_and_out_without_an_autoencoder(form: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.write("a.wav", low_music(channels=2), 22_050)
    [made] = place.apply(path, upsample_module=place.bwe, latents=form)
    assert "stereo already" not in made.notices

    def unwanted(*arguments: object, **settings: object) -> None:
        raise AssertionError("nothing is decoded")

    monkeypatch.setattr(run, "load_own_autoencoder", unwanted)
    first = read_latents(Path(made.outputs[0]))
    [outcome] = place.apply(Path(made.outputs[0]), upsample_module=place.bwe, out="again")
    again = read_latents(Path(outcome.outputs[0]))
    assert again.streams == ("left", "right")
    assert again.spec == first.spec == load_module(place.bwe).spec
    batch = torch.tensor(np.array(first.values)).unflatten(0, (2, -1))
    np.testing.assert_allclose(again.values, load_module(place.bwe)(batch).flatten(0, 1), atol=1e-5)
    [refused] = place.apply(Path(made.outputs[0]), upmix_module=place.m2s, out="refused")
    assert "not the latents that this module takes" in str(refused.error)
    [refused] = place.apply(Path(made.outputs[0]), upmix_module=place.m2s, width=2.0, out="refused")
    assert "--width" in str(refused.error)


def test_latents_of_another_autoencoder_are_refused(place: Place) -> None:
    folder = place.folder / "in"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((8, 20), dtype=np.float32))
    [unsaid] = place.apply(folder / "a.npy", upsample_module=place.bwe, out="unsaid")
    assert unsaid.status == "done"
    assert "taken as the module's" in unsaid.notices[0]
    spec = {**load_module(place.bwe).spec.to_dict(), "weights": "other"}
    (folder / "a.json").write_text(json.dumps({"spec": spec}))
    [refused] = place.apply(folder / "a.npy", upsample_module=place.bwe)
    assert "different autoencoders" in str(refused.error)


def test_finished_files_are_skipped_failed_ones_are_named_and_the_others_go_on(place: Place) -> None:
    place.write("b.wav", low_music(0.4), 22_050)
    (place.folder / "in" / "a.wav").write_bytes(b"RIFF no sound")
    place.write("c.wav", low_music(1 / 22_050), 22_050)
    outcomes = place.apply(place.folder / "in", upsample_module=place.bwe)
    assert [one.status for one in outcomes] == ["failed", "done", "done"]
    assert str(place.folder / "in" / "a.wav") in str(outcomes[0].error)
    before = (place.folder / "out" / "b.wav").stat().st_mtime_ns
    assert [one.status for one in place.apply(place.folder / "in", upsample_module=place.bwe)][1:] == ["skipped"] * 2
    assert (place.folder / "out" / "b.wav").stat().st_mtime_ns == before
    again = place.apply(place.folder / "in", upsample_module=place.bwe, overwrite=True)
    assert [one.status for one in again][1:] == ["done"] * 2
    assert sorted(path.name for path in (place.folder / "out").iterdir()) == ["b.wav", "c.wav"]


def test_a_dry_run_writes_nothing(place: Place) -> None:
    path = place.write("a.mp3", low_music(2.0), 22_050)
    [outcome] = place.apply(path, upsample_module=place.bwe, dry_run=True)
    assert outcome.status == "planned"
    assert outcome.outputs == [str(place.folder / "out" / "a.flac")]
    assert not (place.folder / "out").exists()


def test_the_command_prints_a_line_of_json_for_each_file_and_exits_3(place: Place) -> None:
    place.write("a.wav", low_music(0.4), 22_050)
    (place.folder / "in" / "b.wav").write_bytes(b"")
    arguments = [place.folder / "in", "--out", place.folder / "out", "--module", place.bwe]
    arguments = ["upsample", *arguments, "--autoencoder", place.autoencoder, "--device", "cpu"]
    done = CliRunner().invoke(app, [str(one) for one in [*arguments, "--json"]])
    assert done.exit_code == 3, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert "b.wav: the file is empty" in done.stderr
    np.save(place.folder / "a.npy", np.zeros((3, 20), dtype=np.float32))
    latents = [str(place.folder / "a.npy"), *map(str, arguments[2:])]
    assert CliRunner().invoke(app, ["upsample", *latents]).exit_code == 3, "latents have no seconds to show"
    wrong = CliRunner().invoke(app, [str(one) for one in [*arguments, "--seed", 1]])
    assert isinstance(wrong.exception, ConfigError)


def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(place: Place) -> None:
    place.write("a.wav", low_music(0.2), 22_050)
    place.write("b.wav", np.tile(low_music(60.0), 10), 22_050)  # longer than any machine keeps the signal waiting
    line = [sys.executable, "-m", "reencoder_eval.cli.apply", "upsample", "in", "--out", "out", "--device", "cpu"]
    line += ["--module", str(place.bwe), "--autoencoder", str(place.autoencoder)]
    with subprocess.Popen(
        line, cwd=place.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done: out/a.wav (own band ends at 9.9 kHz)\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 of 2 files are finished, the same command skips them and goes on: reencoder-apply upsample in" in said
    assert [path.name for path in (place.folder / "out").iterdir()] == ["a.wav"]
