"""Outputs of `reencoder-apply`: none replaces another, an input or somebody's file, and none lies outside --out."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from applied import Place, filled, low_music, mono, noise, touched
from reencoder_eval.apply import run as apply_run
from reencoder_eval.apply.files.inputs import InputFile, find_inputs
from reencoder_eval.apply.files.latents_io import Latents, write_latents
from reencoder_eval.apply.files.outputs import Outputs, require_folder, require_own_outputs
from reencoder_eval.apply.files.writing import Container, Form, write_sound
from reencoder_pipeline.errors import AudioError, CacheError, ConfigError, CorpusError
from reencoder_pipeline.latents import LatentSpec

RATE = 44_100


def files_of(*inputs: object, out: Path) -> tuple[InputFile, ...]:
    return find_inputs([str(one) for one in inputs], out=out, stdin=io.BytesIO())


def plan(*inputs: object, out: Path, names: tuple[str, ...] = ("",), latents: str | None = None, **form: str) -> None:
    require_own_outputs(files_of(*inputs, out=out), Outputs(out, Form(**form), latents=latents), names=names)


SEEDS = ("_seed5", "_seed6")


@pytest.mark.parametrize(
    ("files", "names", "settings", "both"),
    [
        (("a.wav", "a_seed5.wav"), SEEDS, {}, ("a.wav", "a_seed5.wav")),
        (("a.flac", "a_seed6.mp3"), SEEDS, {"format": "flac"}, ("a.flac", "a_seed6.mp3")),
        (("a.npy", "a_seed5.npy", "a.json", "a_seed5.json"), SEEDS, {}, ("a.npy", "a_seed5.npy")),
        (("a.wav", "a.mp3", "a.wav.flac"), ("",), {}, ("a.wav", "a.wav.flac")),
    ],
)
def test_two_inputs_with_one_output_are_an_error_that_names_both(
    files: tuple[str, ...], names: tuple[str, ...], settings: dict[str, str], both: tuple[str, str], tmp_path: Path
) -> None:
    folder = touched(tmp_path / "in", *files)
    with pytest.raises(ConfigError, match="same output") as caught:
        plan(folder, out=tmp_path / "out", names=names, **settings)
    assert all(str(folder / name) in str(caught.value) for name in both)


def test_the_same_name_in_two_folders_is_an_error_and_the_same_file_twice_is_one_job(tmp_path: Path) -> None:
    touched(tmp_path, "a/x/s.wav", "b/x/s.wav")
    with pytest.raises(ConfigError, match="same output"):
        plan(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert len(files_of(tmp_path / "a/x/s.wav", tmp_path / "a/x/../x/s.wav", out=tmp_path / "out")) == 1
    (tmp_path / "a/x/link.wav").symlink_to("s.wav")
    assert len(files_of(tmp_path / "a", out=tmp_path / "out")) == 2, "a link of another name has an output too"
    plan(tmp_path / "a", out=tmp_path / "out", names=SEEDS)


def test_an_output_never_replaces_an_input_of_the_call(tmp_path: Path) -> None:
    touched(tmp_path, "a/sub/k.wav", "out/sub/k.wav", "b/sub/l.npy", "b/sub/l.json")
    touched(tmp_path, "out/sub/l.json", "out/sub/l.npy")
    with pytest.raises(ConfigError, match="replace an input"):
        plan(tmp_path / "a", tmp_path / "out/sub/k.wav", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="replace an input"):
        plan(tmp_path / "b", tmp_path / "out/sub/l.npy", out=tmp_path / "out")
    like = [tmp_path / "out/sub/k.wav"]
    files = files_of(tmp_path / "a", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="replace an input"):
        require_own_outputs(files, Outputs(tmp_path / "out"), names=("",), inputs=like)


@pytest.mark.parametrize("pattern", ["a/*/../../x/*.wav", "a/b*/../../x/s.wav", "{root}/a/*/../../x/*.wav"])
def test_a_pattern_that_goes_up_again_never_leads_out_of_the_output_folder(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched(tmp_path, "a/b/t.wav", "x/s.wav")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="leaves the folder") as caught:
        files_of(pattern.format(root=tmp_path), out=Path("deep/er/out"))
    assert "x/s.wav" in str(caught.value)
    [file] = files_of("*/b/../../x/s.wav", out=Path("deep/er/out"))
    assert file.output(Path("out"), suffix=".wav") == Path("out/x/s.wav")
    [file] = files_of("a/*/../b/t.wav", out=Path("deep/er/out"))
    assert file.output(Path("out"), suffix=".wav") == Path("out/b/t.wav")


def test_links_in_the_output_folder_do_not_lead_out_of_it(tmp_path: Path) -> None:
    touched(tmp_path, "in/sub/s.wav", "theirs/s.wav", "out/x.wav")
    (tmp_path / "out/sub").symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="outside --out"):
        plan(tmp_path / "in", out=tmp_path / "out")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    plan(tmp_path / "linked", out=tmp_path / "elsewhere")


def test_names_that_cannot_be_are_no_traceback(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # an empty name is the working folder, which may hold the demo's music
    with pytest.raises(ConfigError, match="home folder"):
        files_of("~nobody-of-this-name/a.wav", out=tmp_path / "out")
    with pytest.raises(CorpusError, match="no audio"):
        files_of("", out=tmp_path / "out")
    [outcome] = place.apply(Path("a" * 5000), upsample=place.bwe)
    assert outcome.status == "failed"


@pytest.mark.parametrize("stem", ["a" * 251, "ä" * 125, "音" * 83 + "x"])
@pytest.mark.parametrize("ending", ["_seed5.wav", ".flac", ".npy"])
def test_an_output_whose_name_would_be_too_long_is_shortened(stem: str, ending: str, tmp_path: Path) -> None:
    """Names count in bytes. Two that begin alike stay apart, and each is found again by the next call."""
    variant, _, suffix = ending.rpartition(".")
    outputs = [
        InputFile(tmp_path / f"{one}.mp3", Path("sub"), one).output(tmp_path, variant=variant, suffix=f".{suffix}")
        for one in (stem, stem[:-1] + "b", stem)
    ]
    for path in outputs:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        if suffix == "npy":
            path.with_suffix(".json").touch()
        assert path.name.endswith(ending)
    assert outputs[0] == outputs[2] != outputs[1]
    assert InputFile(Path("a.wav"), Path(), "a").output(tmp_path, suffix=".wav") == tmp_path / "a.wav"


def test_an_output_folder_that_cannot_be_is_named(place: Place, tmp_path: Path) -> None:
    touched(tmp_path, "file", "in/a.wav")
    for out in ("file", "file/below/out"):
        for dry_run in (False, True):
            with pytest.raises(ConfigError, match="file"):
                place.apply(tmp_path / "in/a.wav", out=out, upsample=place.bwe, dry_run=dry_run)
    (tmp_path / "made" / "deep").mkdir(parents=True)
    require_folder(tmp_path / "made" / "deep" / "er" / "out", dry_run=True)
    assert not list((tmp_path / "made/deep").iterdir()), "a dry run makes nothing"
    require_folder(tmp_path / "made" / "deep" / "er" / "out", dry_run=False)
    assert not list((tmp_path / "made/deep/er/out").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        require_folder(tmp_path / "locked" / "out", dry_run=False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
def test_nothing_is_written_when_outputs_would_meet(place: Place, overwrite: bool, dry_run: bool) -> None:
    place.write("a.wav", mono())
    place.write("a_seed5.wav", mono())
    settings = {"upmix": place.m2s, "variants": 2, "seed": 5, "overwrite": overwrite, "dry_run": dry_run}
    with pytest.raises(ConfigError, match="a_seed5"):
        place.apply(place.folder / "in", **settings)
    assert not (place.folder / "out").exists()


def test_variants_that_are_there_are_left_and_the_others_made(place: Place) -> None:
    path = place.write("a.wav", mono())
    touched(place.folder / "out", "a_seed5.wav", "theirs.wav")
    settings = {"upmix": place.m2s, "variants": 2, "seed": 5}
    [outcome] = place.apply(path, **settings)
    assert outcome.outputs == [str(place.folder / "out/a_seed6.wav")]
    assert "a_seed5.wav exists and is left as it is" in outcome.notices
    assert (place.folder / "out/a_seed5.wav").read_bytes() == b"x"
    [outcome] = place.apply(path, **settings)
    assert outcome.status == "skipped"
    [outcome] = place.apply(path, **settings, overwrite=True)
    assert len(outcome.outputs) == 2
    assert soundfile.info(place.folder / "out/a_seed5.wav").channels == 2
    assert (place.folder / "out/theirs.wav").read_bytes() == b"x"


@pytest.mark.parametrize("theirs", ['{"mine": 1}', "[1, 2"])
def test_a_json_of_others_is_not_replaced_by_that_of_latents(theirs: str, place: Place) -> None:
    path = place.write("a.wav", low_music(), 22_050)
    touched(place.folder / "out", "a.json").joinpath("a.json").write_text(theirs)
    [outcome] = place.apply(path, upsample=place.bwe, latents="npy")
    assert (outcome.status, outcome.outputs) == ("failed", [])
    assert "a.json" in (outcome.error or "")
    assert (place.folder / "out/a.json").read_text() == theirs
    [outcome] = place.apply(path, upsample=place.bwe, latents="npy", overwrite=True)
    assert outcome.status == "done"
    (place.folder / "out/a.npy").unlink()  # as a call that was killed between the two leaves it
    [outcome] = place.apply(path, upsample=place.bwe, latents="npy")
    assert outcome.status == "done"


def test_done_is_said_of_files_that_are_there(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(audio: object, rate: int, path: Path, **settings: object) -> tuple[Path, list[str]]:
        return path, []

    monkeypatch.setattr(apply_run, "write_sound", lost)
    [outcome] = place.apply(place.write("a.wav", low_music(), 22_050), upsample=place.bwe)
    assert outcome.status == "failed"


BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place_of_it", [0, 299_000, 599_999])
def test_a_value_that_is_no_number_is_found_in_every_block(value: str, place_of_it: int, tmp_path: Path) -> None:
    values = noise(2, 600_000)
    values[1, place_of_it] = BAD[value]
    for subtype, peaks in (("PCM_16", "scale"), ("PCM_16", "float"), ("FLOAT", "scale")):
        audio, container = filled(values, tmp_path), Container(".wav", "WAV", subtype)
        with pytest.raises(AudioError, match="not finite"):
            write_sound(audio, RATE, tmp_path / "out" / "a.wav", container=container, peaks=peaks)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
def test_latents_that_are_no_numbers_are_not_written(name: str, tmp_path: Path) -> None:
    spec = LatentSpec("tiny", "abc", sample_rate=44_100, hop=1024, channels=4)
    for value in BAD.values():
        values = np.zeros((4, 10), dtype=np.float32)
        values[3, 9] = value
        with pytest.raises(CacheError, match="not finite"):
            write_latents(Latents(values, spec, ("mono",), {}), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "name"), [("WAV", b"id3 "), ("AIFF", b"ID3 ")])
def test_tags_in_an_id3_chunk_are_said_to_be_lost(kind: str, name: bytes, place: Place) -> None:
    path = place.write(f"a.{kind.lower()}", low_music(), 22_050)
    tag = b"ID3\3\0\0\0\0\0\x10TIT2\0\0\0\6\0\0\0Title"
    chunk = name + len(tag).to_bytes(4, "little" if kind == "WAV" else "big") + tag
    for behind, said in ((b"", False), (chunk, True)):
        path.write_bytes(path.read_bytes() + behind)
        [outcome] = place.apply(path, upsample=place.bwe, overwrite=True)
        assert outcome.status == "done"
        assert any("ID3" in text for text in outcome.notices) == said


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_output_folder_that_is_a_link_to_nothing_is_named(dry_run: bool, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="a link to nothing") as caught:
        require_folder(tmp_path / "out", dry_run=dry_run)
    assert str(tmp_path / "gone") in str(caught.value)


@pytest.mark.parametrize("latents", ["npy", "safetensors"])
def test_a_full_disk_below_latents_is_a_sentence_with_a_remedy(
    latents: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.folder / "out/a.json"))

    monkeypatch.setattr(apply_run, "write_latents", full)
    [outcome] = place.apply(place.write("a.wav", low_music(), 22_050), upsample=place.bwe, latents=latents)
    assert outcome.status == "failed"
    assert outcome.error is not None
    for words in ("out/a.json", "No space left", "try: "):
        assert words in outcome.error
    assert "OSError" not in outcome.error
