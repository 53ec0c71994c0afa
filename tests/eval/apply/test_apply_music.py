"""The README's commands with the released modules on real music, where some was fetched: out/music, out/demo/music."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from reencoder_eval.cli.apply import app
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.corpora.corpus import Track, read_corpus
from reencoder_trainer.release.find_module import released_modules

ROOT, RATE = Path(__file__).parents[3], 44_100
SECONDS = 12.0


@pytest.fixture(scope="module")
def excerpt() -> np.ndarray:
    """(2, samples) of a track of the test split that is wide in both senses."""
    for manifest in (ROOT / "out/music/manifest.jsonl", ROOT / "out/demo/music/manifest.jsonl"):
        if manifest.is_file():
            track = next(filter(_is_wide, read_corpus(manifest)), None)
            if track is not None:
                audio, _ = soundfile.read(track.path, dtype="float32", start=20 * RATE, frames=int(SECONDS * RATE))
                return audio.T
    pytest.skip("no music here: reencoder-cache fetch debian-music --out out/music")


def _is_wide(track: Track) -> bool:
    info = soundfile.info(track.path)
    wide = track.split == "test" and track.tasks is not None and {"bwe", "m2s"} <= set(track.tasks)
    return wide and (info.samplerate, info.channels) == (RATE, 2) and info.duration > 20 + SECONDS


def apply(*arguments: str | float | Path, stdin: bytes | None = None) -> list[dict]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def band(audio: np.ndarray, low: float, high: float) -> float:
    """Level in dB of what lies between two frequencies."""
    spectrum = np.abs(np.fft.rfft(audio.mean(axis=0))) ** 2
    return float(10 * np.log10(spectrum[int(low * SECONDS) : int(high * SECONDS)].sum() + 1e-12))


def test_upsample_restores_the_highs_of_music(excerpt: np.ndarray, tmp_path: Path) -> None:
    low = resample(excerpt, RATE, 22_050)
    soundfile.write(tmp_path / "low.wav", low.T, 22_050, subtype="FLOAT")
    soundfile.write(tmp_path / "full.flac", excerpt.T, RATE)
    done, copied = sorted(
        apply("upsample", tmp_path / "low.wav", tmp_path / "full.flac", "--out", tmp_path / "out"),
        key=lambda row: row["status"] == "copied",
    )
    assert (done["status"], copied["status"]) == ("done", "copied")
    audio, _ = soundfile.read(done["outputs"][0])
    restored = audio.T[:, : excerpt.shape[1]].astype(np.float32)
    assert abs(band(restored, 12_000, 16_000) - band(excerpt, 12_000, 16_000)) < 10
    # Below the crossover the band is the input's own.
    kept, own = (resample(audio, rate, 16_000) for audio, rate in ((restored, RATE), (low, 22_050)))
    frames = min(kept.shape[1], own.shape[1])
    assert 20 * np.log10((kept[:, :frames] - own[:, :frames]).std() / own.std()) < -40


@pytest.mark.skipif("m2s_s" not in released_modules(), reason="no upmixing module is released")
def test_upmix_makes_mono_music_wide_and_keeps_its_mono_mix(excerpt: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", excerpt.mean(axis=0), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "like.wav", excerpt.T, RATE)
    folder = ("upmix", tmp_path / "mono.wav", "--format", "wav", "--depth", "float", "--out")
    [seeded] = apply(*folder, tmp_path / "seeded", "--variants", 2, "--seed", 5)
    assert len(seeded["outputs"]) == 2
    [like] = apply(*folder, tmp_path / "like", "--like", tmp_path / "like.wav", "--lambda", 0.7, "--width", 1.5)
    [kept] = apply(*folder, tmp_path / "kept", "--mono-compatible")
    for outcome in (seeded, like, kept):
        for output in outcome["outputs"]:
            left, right = soundfile.read(output, dtype="float32")[0].T
            assert 20 * np.log10((left - right).std() / (left + right).std()) > -25, "there is a side"
    left, right = soundfile.read(kept["outputs"][0], dtype="float32")[0].T
    mid, mono = (left + right) / 2, excerpt.mean(axis=0)
    scale = float(mid @ mono / (mono @ mono))  # 1, or less where peaks were turned down
    assert scale < 1.001
    np.testing.assert_allclose(mid, scale * mono, atol=1e-3)


@pytest.mark.skipif("m2s_s" not in released_modules(), reason="no upmixing module is released")
def test_both_in_one_pass_and_latents_in_between(excerpt: np.ndarray, tmp_path: Path) -> None:
    low = resample(excerpt.mean(axis=0, keepdims=True), RATE, 22_050)
    soundfile.write(tmp_path / "old.wav", low.T, 22_050)
    [both] = apply("upsample", tmp_path / "old.wav", "--out", tmp_path / "both", "--then", "upmix")
    audio, rate = soundfile.read(both["outputs"][0])
    assert (audio.shape[1], rate) == (2, RATE)
    listed = f"{tmp_path / 'old.wav'}\0".encode()
    [latents] = apply("upsample", "-", "--out", tmp_path / "latents", "--latents", "npy", stdin=listed)
    assert np.load(latents["outputs"][0]).shape[0] == 64
    [made] = apply("upmix", Path(latents["outputs"][0]), "--out", tmp_path / "stereo")
    assert np.load(made["outputs"][0]).shape[0] == 128


def test_an_mp3_whose_band_was_cut_is_found_and_a_dry_run_writes_nothing(excerpt: np.ndarray, tmp_path: Path) -> None:
    cut = resample(resample(excerpt, RATE, 24_000), 24_000, RATE)[:, : excerpt.shape[1]]
    soundfile.write(tmp_path / "old.mp3", cut.T, RATE, format="MP3")
    [planned] = apply("upsample", tmp_path, "--out", tmp_path / "out", "--dry-run")
    assert planned["status"] == "planned"
    assert any("own band ends at" in notice for notice in planned["notices"])
    assert not (tmp_path / "out").exists()


def test_a_file_is_not_made_twice_unless_told(excerpt: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", resample(excerpt[:, : 2 * RATE], RATE, 22_050).T, 22_050)
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    first = apply("upsample", str(tmp_path / "*.wav"), "--out", tmp_path / "out")
    again = apply("upsample", str(tmp_path / "*.wav"), "--out", tmp_path / "out")
    assert [row["status"] for row in first + again] == ["done", "done", "skipped", "skipped"]
