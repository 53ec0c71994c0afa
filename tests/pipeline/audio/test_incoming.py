"""What comes in is looked at: levels, copies of one recording, links, and files that are left out."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from reencoder_eval.apply.decision import decide
from reencoder_eval.apply.files.inputs import find_inputs
from reencoder_eval.apply.files.scratch import Scratch, downmixed
from reencoder_eval.apply.options import ApplyOptions
from reencoder_pipeline.audio.read import read_audio
from reencoder_pipeline.build.plan import plan_build, remarks
from reencoder_pipeline.cache.index import CachedTrack, shard_from_dict, shard_to_dict
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app
from reencoder_pipeline.corpora.corpus import Track, find_corpus, read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.corpora.twins import same_content
from reencoder_pipeline.errors import CacheError, CorpusError, ReencoderError
from reencoder_pipeline.inspection.outliers import far_above, far_deviations, loud_tracks
from reencoder_pipeline.inspection.summary import report, summarise
from reencoder_pipeline.inspection.value_checks import ValueCheck
from reencoder_pipeline.inspection.verify import verify_cache
from surveyed import survey_audio
from tiny_build import build, music, tiny_config

ONE_STREAM: dict[str, Any] = {"streams": ["mono"]}


def sound(path: Path, *, seed: int = 0, gain: float = 1.0, subtype: str = "FLOAT", seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, gain * music(seconds=seconds, seed=seed).T, 44_100, subtype=subtype)
    return path


def track(name: str, *, level_db: float | None = None, split: str = "train", sha256: str = "") -> CachedTrack:
    digest = sha256 or f"{abs(hash(name)):064x}"[:64]
    return CachedTrack(name, split, digest, 1, 1, (), None, None, 0, "key", level_db=level_db)


# Levels


@pytest.mark.parametrize("gain", [8.0, 32_767.0, 2.0**31])
def test_sound_far_above_full_scale_is_left_out_by_its_name(
    tmp_path: Path, tiny_autoencoder: Path, gain: float
) -> None:
    sound(tmp_path / "music/a.wav")
    sound(tmp_path / "music/b.wav", seed=1, gain=2.0)  # +3 dBFS
    sound(tmp_path / "music/c.wav", seed=2, gain=gain)
    done = build(tmp_path / "music", tmp_path / "cache", tiny_autoencoder, **ONE_STREAM)
    (failure,) = done.failures
    assert "c.wav" in failure["error"]
    assert "far above full scale" in failure["error"]
    assert "scale it" in failure["error"]
    assert [track.id for track in open_cache(tmp_path / "cache").tracks] == ["a.wav", "b.wav"]


def test_levels_are_in_the_index_and_in_the_list_of_tracks(tmp_path: Path, tiny_autoencoder: Path) -> None:
    sound(tmp_path / "music/loud.wav", gain=1.0)
    sound(tmp_path / "music/quiet.wav", gain=0.001, seed=1)
    build(tmp_path / "music", tmp_path / "cache", tiny_autoencoder, **ONE_STREAM)
    cache = open_cache(tmp_path / "cache")
    for one in cache.tracks:
        expected = survey_audio(read_audio(tmp_path / "music" / one.id)[0], sample_rate=44_100)
        assert one.level_db == pytest.approx(expected.level_db, abs=0.06)
        assert one.peak_db == pytest.approx(expected.peak_db, abs=0.06)
        line = next(line for line in report(summarise(cache), cache.tracks) if line.endswith(one.id))
        assert f"{one.level_db:.1f} dBFS" in line
    assert not [finding for finding in verify_cache(cache) if finding.check == "level"]


def test_a_cache_that_says_nothing_of_levels_stays_as_it_is(tmp_path: Path, tiny_autoencoder: Path) -> None:
    """One that was built before levels were measured: the same build keeps its shards, and its digest."""
    sound(tmp_path / "music/a.wav")
    build(tmp_path / "music", out := tmp_path / "cache", tiny_autoencoder, **ONE_STREAM)
    (record,) = (out / "shards").glob("*.json")
    values = json.loads(record.read_text())
    shard = shard_from_dict(values["shard"])
    old = replace(shard, tracks=tuple(replace(one, level_db=None, peak_db=None) for one in shard.tracks))
    assert "level_db" not in json.dumps(shard_to_dict(old))
    assert shard_from_dict(shard_to_dict(old)) == old
    assert shard_from_dict(shard_to_dict(shard)) == shard


def test_a_track_far_above_the_others_is_named_and_quiet_ones_are_not() -> None:
    usual = [track(f"usual {n}", level_db=-20.0 + n) for n in range(8)]
    silent = [track("silent", level_db=-120.0), track("quiet", level_db=-60.0)]
    (found,) = loud_tracks([*usual, *silent, track("unscaled", level_db=70.0)])
    assert found.severity == "warning"
    assert "unscaled" in found.problem
    assert not list(loud_tracks([*usual, *silent, track("old"), track("loud", level_db=-3.0)]))
    spread = [track(f"{n}", level_db=-10.0 * n) for n in range(9)]
    assert not list(loud_tracks(spread))


def test_latents_far_larger_than_those_of_the_others_are_named() -> None:
    usual = {f"usual {n}": 0.1 + 0.01 * n for n in range(6)}
    (found,) = far_deviations({"mono": {**usual, "unscaled": 877.0}, "left": {**usual, "unscaled": 800.0}})
    assert "unscaled" in found.problem
    assert not list(far_deviations({"mono": {**usual, "silent": 0.0, "quiet": 0.001, "loud": 0.5}}))
    assert far_above({"a": 0.0, "b": 90.0}) == {}  # among two nothing is usual


def test_verify_names_a_track_that_an_older_build_took_without_scaling(tmp_path: Path, tiny_autoencoder: Path) -> None:
    """By its level where the index has it, and by its latents where it has not."""
    for seed in range(6):
        sound(tmp_path / f"music/{seed}.wav", seed=seed)
    build(tmp_path / "music", tmp_path / "cache", tiny_autoencoder, **ONE_STREAM)
    cache = open_cache(tmp_path / "cache")
    assert not verify_cache(cache)
    check = ValueCheck(cache)
    for shard in cache.shards:
        frames = np.concatenate([cache.read(one, "mono") for one in shard.tracks]).astype(np.float32)
        for one in shard.tracks:
            if one.id == "3.wav":
                frames[one.first_frame :][: one.num_frames] *= 1000
        assert not list(check.add(shard, {"mono": frames}))
    (found,) = [finding for finding in check.whole() if finding.check == "level"]
    assert (found.severity, "3.wav" in found.problem) == ("warning", True)
    cache.tracks = tuple(replace(one, level_db=75.0) if one.id == "4.wav" else one for one in cache.tracks)
    (found,) = verify_cache(cache, quick=True)
    assert (found.severity, found.check, "4.wav" in found.problem) == ("warning", "level", True)


# What apply does with one signal in two channels


@pytest.mark.parametrize(("sides", "channel"), [((1.0, 0.0), 0), ((0.0, 1.0), 1), ((1.0, -1.0), 0), ((0.2, 1.0), 1)])
def test_an_upmix_takes_the_side_that_holds_the_signal(
    sides: tuple[float, float], channel: int, tmp_path: Path
) -> None:
    one = music(seconds=1.0, channels=1)
    audio = np.concatenate([gain * one for gain in sides]).astype(np.float32)
    decision = decide(survey_audio(audio, sample_rate=44_100), ApplyOptions(upmix="mix"), low_rate=22_050)
    assert decision.upmix
    assert decision.channel == channel
    with Scratch(2, folder=tmp_path) as scratch:
        scratch.append(audio)
        with downmixed(scratch, channel=decision.channel) as mono:
            assert np.array_equal(mono.read(0, len(mono)), audio[channel : channel + 1])


def test_equal_sides_are_mixed_down_and_stereo_is_left_alone() -> None:
    one, stereo = music(seconds=1.0, channels=1), music(seconds=1.0)
    wishes = ApplyOptions(upmix="mix")
    equal = decide(survey_audio(np.concatenate([one, one]), sample_rate=44_100), wishes, low_rate=22_050)
    assert (equal.upmix, equal.channel) == (True, None)
    assert not decide(survey_audio(stereo, sample_rate=44_100), wishes, low_rate=22_050).upmix


# Discovery


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def jobs(folder: Path, out: Path) -> tuple[list[str], list[str]]:
    said: list[str] = []
    found = find_inputs([str(folder)], out=out, stdin=io.BytesIO(), say=said.append)
    return [str(job.path.relative_to(folder)) for job in found], said


def test_linked_folders_are_entered_once_whatever_loops_there_are(tmp_path: Path) -> None:
    here, disk = touch(tmp_path / "music", "a.wav", "album/b.wav"), touch(tmp_path / "disk", "one/c.wav", "two/d.wav")
    (here / "loop").symlink_to(here)
    (here / "album/up").symlink_to("..")
    (here / "again").symlink_to(here / "album")
    (here / "linked").symlink_to(disk / "one")
    (here / "linked too").symlink_to(disk / "one")
    (disk / "one/back").symlink_to(here)
    (disk / "one/two").symlink_to(disk / "two")
    (disk / "two/one").symlink_to(disk / "one")
    expected = ["a.wav", "album/b.wav", "linked/c.wav", "linked/two/d.wav"]
    assert [track.id for track in read_corpus(here)] == expected
    assert jobs(here, tmp_path / "out")[0] == expected


def test_a_link_to_a_folder_above_is_named_and_not_followed(tmp_path: Path) -> None:
    here = touch(tmp_path / "all/music", "a.wav")
    touch(tmp_path / "all", "other.wav")
    (here / "above").symlink_to(tmp_path / "all")
    (here / "root").symlink_to("/")
    corpus = find_corpus(here)
    assert [track.id for track in corpus.tracks] == ["a.wav"]
    assert corpus.left_out.counts == {"links to a folder above": 2}
    assert "above" in jobs(here, tmp_path / "out")[1][0]


def test_the_corpus_may_itself_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "disk", "a.wav", "sub/b.flac")
    (tmp_path / "music").symlink_to(tmp_path / "disk")
    assert [track.id for track in read_corpus(tmp_path / "music")] == ["a.wav", "sub/b.flac"]


def test_formats_that_are_not_read_are_counted_and_pictures_are_not(tmp_path: Path, tiny_autoencoder: Path) -> None:
    sound(tmp_path / "music/a.wav")
    others = ("b.m4a", "c.M4A", "sub/d.wma", "e.ape", "f.dsf", "g.mpc")
    touch(
        tmp_path / "music",
        *others,
        "cover.jpg",
        "notes.txt",
        "album.cue",
        "list.m3u",
        "._a.wav",
        ".h.flac",
        ".git/x.wav",
    )
    planned = plan_build(tmp_path / "music", tiny_config(tiny_autoencoder))
    expected = {".m4a": 2, ".wma": 1, ".ape": 1, ".dsf": 1, ".mpc": 1, "hidden files": 1, "hidden folders": 1}
    assert planned.left_out.counts == expected
    said = "\n".join(remarks(planned))
    assert said.count(".m4a") == 1
    assert "2 .m4a" in said
    assert "hidden folders (1): " in said
    assert not any(name in said for name in ("cover", "notes", "cue", "m3u", "._a"))
    command = ["build", str(tmp_path / "music"), "--out", str(tmp_path / "cache"), "--json"]
    done = CliRunner().invoke(app, [*command, "--autoencoder", str(tiny_autoencoder), "--set", "workers=1"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["left_out"] == expected
    names, lines = jobs(tmp_path / "music", tmp_path / "out")
    assert names == ["a.wav", "b.m4a", "c.M4A", "e.ape", "sub/d.wma"]  # ffmpeg may read them
    assert any("1 .dsf, 1 .mpc" in line for line in lines)


def test_a_folder_of_other_formats_alone_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"2 \.m4a"):
        read_corpus(touch(tmp_path, "a.m4a", "b.m4a"))


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Root may read anything, so root becomes nobody for a while."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folders_that_may_not_be_read_are_named() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = touch(Path(name), "a.wav", "closed/b.wav", "shut/c.wav")
        folder.chmod(0o755)
        try:
            for one in ("closed", "shut"):
                (folder / one).chmod(0o000)
            with an_ordinary_user():
                corpus = find_corpus(folder)
            assert [track.id for track in corpus.tracks] == ["a.wav"]
            assert corpus.left_out.counts == {"unreadable folders": 2}
            assert "closed" in corpus.left_out.lines()[0]
            folder.chmod(0o000)
            with an_ordinary_user(), pytest.raises(CorpusError, match="cannot be read"):
                read_corpus(folder)
        finally:
            for one in (folder, folder / "closed", folder / "shut"):
                one.chmod(0o755)


# Copies of one recording


def copies(folder: Path, count: int) -> Path:
    first = sound(folder / "copy 00.wav", seconds=0.3)
    for number in range(1, count):
        shutil.copy(first, folder / f"copy {number:02d}.wav")
        sound(folder / f"other {number:02d}.wav", seed=number, seconds=0.3)
    return folder


@pytest.mark.parametrize("count", [2, 12, 25])
def test_copies_lie_in_one_split_and_the_others_stay_where_they_were(tmp_path: Path, count: int) -> None:
    tracks = read_corpus(copies(tmp_path, count))
    shares = {"valid_share": 0.2, "test_share": 0.2}
    splits = {track.id: track.split for track in assign_splits(tracks, **shares)}
    assert len({split for name, split in splits.items() if name.startswith("copy")}) == 1
    alone = [track for track in tracks if track.id == "copy 00.wav" or track.id.startswith("other")]
    expected = {track.id: track.split for track in assign_splits(alone, **shares)}
    assert {name: splits[name] for name in expected} == expected


def test_a_copy_follows_the_one_whose_split_is_given(tmp_path: Path) -> None:
    copies(tmp_path, 5)
    for given in ("train", "valid", "test"):
        tracks = [replace(one, split=given) if one.id == "copy 03.wav" else one for one in read_corpus(tmp_path)]
        splits = {one.id: one.split for one in assign_splits(tracks, valid_share=0.2, test_share=0.2)}
        assert {split for name, split in splits.items() if name.startswith("copy")} == {given}


def test_copies_that_a_manifest_puts_into_two_splits_are_named(tmp_path: Path, tiny_autoencoder: Path) -> None:
    copies(tmp_path, 4)
    rows = [{"path": f"copy {n:02d}.wav", "split": "test" if n == 2 else "train"} for n in range(4)]
    (manifest := tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [line for line in remarks(plan_build(manifest, tiny_config(tiny_autoencoder))) if "several splits" in line]
    assert len(said) == 1
    assert "copy 02.wav in test" in said[0]
    assert "copy 00.wav and 2 more in train" in said[0]
    build(manifest, tmp_path / "cache", tiny_autoencoder, **ONE_STREAM)
    found = [finding for finding in verify_cache(open_cache(tmp_path / "cache")) if finding.check == "splits"]
    assert [finding.severity for finding in found] == ["warning"]
    assert "copy 02.wav in test" in found[0].problem


def test_only_equal_bytes_are_copies(tmp_path: Path) -> None:
    for name, content in {
        "a": b"x" * 300_000,
        "b": b"x" * 300_000,
        "c": b"x" * 250_000 + b"y" * 50_000,
        "d": b"",
        "e": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    middle = bytearray(b"x" * 300_000)
    middle[100_000] = 0  # between the places that are looked at first
    (tmp_path / "f").write_bytes(middle)
    os.mkfifo(tmp_path / "g")
    paths = [tmp_path / name for name in ("a", "b", "c", "d", "e", "f", "g", "absent")]
    assert same_content(paths) == [(tmp_path / "a", tmp_path / "b")]
    tracks = [Track(path.name, path) for path in paths]
    assert len(assign_splits(tracks, valid_share=0.1, test_share=0.1)) == len(tracks)


def test_an_index_that_is_a_fifo_is_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "index.json")
    with pytest.raises(CacheError, match="a FIFO"):
        open_cache(tmp_path)
    for name in ("inspect", "verify"):
        assert isinstance(CliRunner().invoke(app, [name, str(tmp_path)]).exception, CacheError)


def test_settings_that_are_nested_deeply_are_damaged(tmp_path: Path, tiny_autoencoder: Path) -> None:
    sound(tmp_path / "music/a.wav")
    build(tmp_path / "music", tmp_path / "cache", tiny_autoencoder, **ONE_STREAM)
    for text in ("[" * 200_000, '{"streams": ' * 50_000):
        (tmp_path / "cache/settings.json").write_text(text)
        with pytest.raises(ReencoderError, match=r"damaged|neither empty"):
            build(tmp_path / "music", tmp_path / "cache", tiny_autoencoder, **ONE_STREAM)
