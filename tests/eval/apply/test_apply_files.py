"""Files of `reencoder-apply`: what is found, what is read, what is written and how it is named."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from applied import filled, noise, touched, whole
from reencoder_eval.apply.decision import decide
from reencoder_eval.apply.files import reading, writing
from reencoder_eval.apply.files.inputs import find_inputs
from reencoder_eval.apply.files.latents_io import Latents, is_latents, read_latents, write_latents
from reencoder_eval.apply.files.reading import opened
from reencoder_eval.apply.files.writing import Container, Form, container_of, write_sound
from reencoder_eval.apply.options import ApplyOptions
from reencoder_pipeline.audio.survey import Survey
from reencoder_pipeline.errors import AudioError, CacheError, ConfigError, CorpusError
from reencoder_pipeline.latents import LatentSpec

SPEC = LatentSpec("tiny", "abc", sample_rate=44_100, hop=1024, channels=4)
RATE = 44_100


def outputs(*inputs: object, out: Path, stdin: bytes = b"") -> list[str]:
    jobs = find_inputs([str(one) for one in inputs], out=out, stdin=io.BytesIO(stdin))
    return [job.output(out, suffix=".wav").relative_to(out).as_posix() for job in jobs]


def test_folders_keep_their_tree_and_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    folder = touched(tmp_path / "in", "b/c d.flac", "a.WAV", "x.txt", ".hidden/z.wav", "m4a/one.m4a", "model.npy")
    assert outputs(folder, out=tmp_path / "out") == ["a.wav", "b/c d.wav", "m4a/one.wav"]


def test_what_lies_below_the_output_folder_is_no_input(tmp_path: Path) -> None:
    touched(tmp_path, "in/a.wav", "in/out/a.wav")
    assert outputs(tmp_path / "in", out=tmp_path / "in" / "out") == ["a.wav"]


def test_patterns_brackets_in_names_and_lists_on_standard_input(tmp_path: Path) -> None:
    touched(tmp_path, "a/one.wav", "a/b/two.wav", "a/[live] (2).wav", "a/sub\nline.wav")
    assert outputs(f"{tmp_path}/a/**/*o*.wav", out=tmp_path / "out") == ["b/two.wav", "one.wav"]
    assert outputs(tmp_path / "a" / "[live] (2).wav", out=tmp_path / "out") == ["[live] (2).wav"]
    listed = os.fsencode(f"{tmp_path}/a/one.wav\n\n{tmp_path}/a/b/two.wav\r\n")
    assert outputs("-", out=tmp_path / "out", stdin=listed) == ["one.wav", "two.wav"]
    assert outputs("-", out=tmp_path / "out", stdin=os.fsencode(f"{tmp_path}/a/sub\nline.wav\0")) == ["sub\nline.wav"]


def test_outputs_never_meet(tmp_path: Path) -> None:
    touched(tmp_path, "a/song.mp3", "a/song.wav", "b/song.wav")
    out = tmp_path / "out"
    assert outputs(tmp_path / "a", out=out) == ["song.mp3.wav", "song.wav.wav"]
    assert outputs(tmp_path / "a/song.wav", tmp_path / "a" / ".." / "a/song.wav", out=out) == ["song.wav"]
    with pytest.raises(ConfigError, match="same output"):
        outputs(tmp_path / "a/song.wav", tmp_path / "b/song.wav", out=out)
    with pytest.raises(ConfigError, match="beside its input"):
        outputs(tmp_path / "b/song.wav", out=tmp_path / "b")
    with pytest.raises(CorpusError, match="no audio"):
        outputs(tmp_path / "nothing*", out=out)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("a.wav", {"subtype": "PCM_16"}, (".wav", "WAV", "PCM_16")),
        ("a.WAV", {"subtype": "PCM_U8"}, (".WAV", "WAV", "PCM_16")),
        ("a.wav", {"subtype": "DOUBLE"}, (".wav", "WAV", "FLOAT")),
        ("a.wav", {"subtype": "ULAW"}, (".wav", "WAV", "PCM_16")),
        ("a.aif", {"format": "AIFF", "subtype": "PCM_24"}, (".aif", "AIFF", "PCM_24")),
        ("a.flac", {"subtype": "PCM_24"}, (".flac", "FLAC", "PCM_24")),
        ("a.ogg", {}, (".flac", "FLAC", "PCM_16")),
        ("a.mp3", {}, (".flac", "FLAC", "PCM_16")),
    ],
)
def test_containers(name: str, settings: dict[str, str], expected: tuple[str, str, str], tmp_path: Path) -> None:
    soundfile.write(tmp_path / name, noise(1, 5000).T, RATE, **settings)  # type: ignore[arg-type]
    with opened(tmp_path / name, folder=tmp_path) as sound:
        assert container_of(sound, Form()) == Container(*expected)
        assert container_of(sound, Form(format="wav", depth="float")) == Container(".wav", "WAV", "FLOAT")
        assert container_of(sound, Form(format="mp3")) == Container(".mp3", "MP3", None)


@pytest.mark.parametrize(
    "settings", [{"format": "wma"}, {"depth": "12"}, {"peaks": "x"}, {"format": "flac", "depth": "float"}]
)
def test_forms_that_cannot_be(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Form(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_integer_samples_are_written_as_they_were_read(subtype: str, bits: int, suffix: str, tmp_path: Path) -> None:
    full = 2 ** (bits - 1)
    values = np.random.default_rng(0).integers(-full, full, size=(2, 4000))
    values[:, 0] = -full, full - 1
    path = tmp_path / f"a.{suffix}"
    container = Container(path.suffix, suffix.upper(), subtype)
    audio = filled((values / full).astype(np.float32), tmp_path)
    assert write_sound(audio, RATE, path, container=container, peaks="scale") == (path, [])
    read = np.asarray(soundfile.read(path, dtype="int32")[0])
    np.testing.assert_array_equal(np.right_shift(read.T.astype(np.int64), 32 - bits), values)


def test_peaks_are_never_clipped_unsaid(tmp_path: Path) -> None:
    values = np.array([[0.5, -2.0, 1.0]], dtype=np.float32)
    container = Container(".flac", "FLAC", "PCM_16")
    path, notices = write_sound(filled(values, tmp_path), RATE, tmp_path / "a.flac", container=container, peaks="scale")
    np.testing.assert_allclose(soundfile.read(path)[0], [0.25, -1, 0.5], atol=1e-4)
    assert "turned down by 6.02 dB" in notices[0]
    path, notices = write_sound(filled(values, tmp_path), RATE, tmp_path / "b.flac", container=container, peaks="float")
    assert path.name == "b.wav"
    assert "float" in notices[0]
    assert soundfile.read(path)[0].tolist() == [0.5, -2.0, 1.0]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(b"old")

    def short(self: soundfile.SoundFile, data: np.ndarray) -> None:
        raise AssertionError  # what soundfile does when libsndfile writes less than it should

    monkeypatch.setattr(soundfile.SoundFile, "write", short)
    container = Container(".wav", "WAV", "PCM_16")
    with pytest.raises(AudioError, match="cannot be written"):
        write_sound(filled(noise(1, 10), tmp_path), RATE, tmp_path / "a.wav", container=container, peaks="scale")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == b"old"


def test_a_large_wav_is_written_as_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LARGEST_WAV", 100)
    container = Container(".wav", "WAV", "PCM_16")
    write_sound(filled(noise(1, 100), tmp_path), RATE, tmp_path / "a.wav", container=container, peaks="scale")
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"


def test_reading_gives_samples_and_a_survey(tmp_path: Path) -> None:
    values = noise(2, 300_000)
    soundfile.write(tmp_path / "Ängste [live].wav", values.T, RATE, subtype="FLOAT")
    with opened(tmp_path / "Ängste [live].wav", folder=tmp_path) as sound:
        np.testing.assert_array_equal(whole(sound.audio), values)
        assert (sound.rate, sound.format, sound.subtype) == (RATE, "WAV", "FLOAT")
        assert sound.survey.num_samples == 300_000
        assert sound.survey.bandwidth_hz > 20_000


def broken_files(folder: Path) -> dict[str, Path]:
    soundfile.write(folder / "six.wav", noise(6, 100).T, RATE)
    soundfile.write(folder / "none.wav", np.zeros((0, 2)), RATE)
    soundfile.write(folder / "nan.wav", np.full((100, 1), np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    soundfile.write(folder / "cut.wav", noise(1, 10_000).T, RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:9_000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_bytes(b"this is no sound at all\n" * 20)
    return {name: folder / f"{name}.wav" for name in ("six", "none", "nan", "cut", "empty", "text", "missing")}


BROKEN = {
    "six": "neither mono nor stereo",
    "none": "holds no samples",
    "nan": "not numbers",
    "cut": "ends before its header says",
    "empty": "is empty",
    "text": "neither by libsndfile nor by ffmpeg|no ffmpeg",
    "missing": "no such audio file",
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_files_are_named(name: str, tmp_path: Path) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(AudioError, match=BROKEN[name]) as caught, opened(path, folder=tmp_path):
        pass
    assert caught.value.where == path


def fake_ffmpeg(folder: Path, body: str) -> None:
    """A program of that name, first on the PATH."""
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_what_soundfile_cannot_read_is_decoded_by_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "-odd $(name); .m4a"
    source.write_bytes(b"\0\0\0 ftypM4A ")
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(AudioError, match="install ffmpeg"), opened(source, folder=tmp_path):
        pass

    soundfile.write(tmp_path / "decoded.wav", noise(2, 500).T, 22_050, subtype="FLOAT")
    copy = (
        "import shutil\n"
        f"assert sys.argv[sys.argv.index('-i') + 1] == 'file:' + {str(source)!r}, sys.argv\n"
        f"shutil.copy({str(tmp_path / 'decoded.wav')!r}, sys.argv[-1].removeprefix('file:'))"
    )
    fake_ffmpeg(tmp_path / "bin", copy)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with opened(source, folder=tmp_path) as sound:
        np.testing.assert_array_equal(whole(sound.audio), noise(2, 500))
        assert (sound.rate, sound.format) == (22_050, None)
        assert container_of(sound, Form()) == Container(".flac", "FLAC", "PCM_16")

    fake_ffmpeg(tmp_path / "bad", "sys.exit('moov atom not found')")
    monkeypatch.setenv("PATH", str(tmp_path / "bad"))
    with pytest.raises(AudioError, match="moov atom not found"), opened(source, folder=tmp_path):
        pass

    fake_ffmpeg(tmp_path / "slow", "import time; time.sleep(60)")
    monkeypatch.setenv("PATH", str(tmp_path / "slow"))
    monkeypatch.setattr(reading, "FFMPEG_SECONDS", 0.5)
    with pytest.raises(AudioError, match="did not end"), opened(source, folder=tmp_path):
        pass
    assert not list(tmp_path.glob(f"{reading.HIDDEN}*"))


def test_latents_come_back_with_their_specification(tmp_path: Path) -> None:
    values = noise(8, 30).astype(np.float16)
    latents = Latents(values, SPEC, ("left", "right"), {"padding_mask": [1, 1]})
    for name in ("a.npy", "a.safetensors"):
        write_latents(latents, tmp_path / name)
        read = read_latents(tmp_path / name)
        np.testing.assert_array_equal(read.values, values)
        assert (read.spec, read.streams, read.others) == (SPEC, ("left", "right"), {"padding_mask": [1, 1]})
        assert read.values.dtype == np.float16
        assert is_latents(tmp_path / name, listed=True)
    (tmp_path / "a.json").unlink()
    assert read_latents(tmp_path / "a.npy").spec is None
    assert not is_latents(tmp_path / "a.npy", listed=True)


def test_what_is_no_file_of_latents_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "3d.npy", np.zeros((1, 4, 5), dtype=np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((4, 5), dtype=np.int64))
    np.save(tmp_path / "nan.npy", np.full((4, 5), np.nan))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.safetensors").write_text("no tensors")
    np.save(tmp_path / "json.npy", np.zeros((4, 5), dtype=np.float32))
    (tmp_path / "json.json").write_text("[1")
    for path in [*tmp_path.glob("*.npy"), tmp_path / "text.safetensors", tmp_path / "missing.npy"]:
        with pytest.raises(CacheError) as caught:
            read_latents(path)
        assert caught.value.where in (path, path.with_suffix(".json") if path.stem == "json" else path)


def survey(*, rate: int = RATE, channels: int = 1, band: float = 20_000.0, side: float = -120.0, level: float = -20.0):
    return Survey(rate, 10 * rate, channels, band, side, level)


@pytest.mark.parametrize(
    ("found", "wishes", "upsample", "upmix", "band"),
    [
        (survey(band=18_000), ApplyOptions("up", None), False, False, None),
        (survey(band=15_500), ApplyOptions("up", None), False, False, None),
        (survey(band=15_400), ApplyOptions("up", None), True, False, 15_400),
        (survey(band=18_000), ApplyOptions("up", None, band_hz=11_000), True, False, 11_000),
        (survey(rate=22_050, band=11_000), ApplyOptions("up", None), True, False, 0.9 * 11_025),
        (survey(rate=8_000, band=3_000), ApplyOptions("up", None), True, False, 3_000),
        (survey(level=-150.0, band=0.0), ApplyOptions("up", "mix"), False, False, None),
        (survey(), ApplyOptions(None, "mix"), False, True, None),
        (survey(channels=2, side=-45.0), ApplyOptions(None, "mix"), False, True, None),
        (survey(channels=2, side=-10.0), ApplyOptions(None, "mix"), False, False, None),
        (survey(channels=2, side=-10.0), ApplyOptions(None, "mix", force=True), False, True, None),
        (survey(channels=2, side=-10.0, band=9_000), ApplyOptions("up", "mix"), True, False, 9_000),
        (survey(band=18_000), ApplyOptions("up", "mix"), False, True, None),
    ],
)
def test_decisions(found: Survey, wishes: ApplyOptions, upsample: bool, upmix: bool, band: float | None) -> None:
    decision = decide(found, wishes, low_rate=22_050)
    assert (decision.upsample, decision.upmix, decision.band_hz) == (upsample, upmix, band)
    assert decision.copy == (not upsample and not upmix)
    assert decision.reasons or (upmix and not upsample), "what is decided is said"
    if band is not None:
        assert decision.edge_hz is not None
        assert decision.edge_hz < band


TAGS = {"title": "Ängste und Öl", "artist": "Someone", "album": "Überall", "tracknumber": "07", "date": "1999"}


def tagged(path: Path, kind: str, tags: dict[str, str], subtype: str | None = None) -> Path:
    with soundfile.SoundFile(path, "w", 44_100, 2, format=kind, subtype=subtype) as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(noise(2, 20_000).T)
    return path


@pytest.mark.parametrize("source", ["WAV", "FLAC", "OGG", "CAF"])
@pytest.mark.parametrize("target", ["wav", "flac", "ogg", "caf", "aiff", "w64", "mp3"])
def test_tags_are_carried_over_or_it_is_said_which_are_not(source: str, target: str, tmp_path: Path) -> None:
    path = tagged(tmp_path / f"a.{source.lower()}", source, TAGS)
    with opened(path, folder=tmp_path) as sound:
        container = container_of(sound, Form(format=target))
        out = tmp_path / f"out{container.suffix}"
        written, notices = write_sound(
            sound.audio, sound.rate, out, container=container, peaks="scale", tags=sound.tags
        )
    with soundfile.SoundFile(written) as file:
        found = file.copy_metadata()
    lost = [name for name in TAGS if found.get(name) != TAGS[name]]
    if target in ("wav", "flac", "ogg", "caf"):
        assert lost == []
    said = next((text for text in notices if "tags" in text), "")
    assert [name for name in TAGS if name in said] == lost


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_file_without_tags_is_written_as_ever(kind: str, tmp_path: Path) -> None:
    path = tagged(tmp_path / f"a.{kind.lower()}", kind, {})
    with opened(path, folder=tmp_path) as sound:
        container, written = container_of(sound, Form()), []
        for name, tags in (("b", sound.tags), ("c", None)):
            out = tmp_path / f"{name}{container.suffix}"
            _, notices = write_sound(sound.audio, sound.rate, out, container=container, peaks="scale", tags=tags)
            assert not [text for text in notices if "tags" in text]
            written.append(out.read_bytes())
    assert written[0] == written[1]
