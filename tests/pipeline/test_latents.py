"""LatentSpec: samples <-> frames exactly, and never two autoencoders in one place."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec

SPEC = LatentSpec("house", "ab" * 32, sample_rate=44_100, hop=1024, channels=64)

HOPS = st.integers(1, 10_000)
LENGTHS = st.integers(0, 2**60)


def spec(*, hop: int = 1024, sample_rate: int = 44_100) -> LatentSpec:
    return replace(SPEC, hop=hop, sample_rate=sample_rate)


@given(num_samples=LENGTHS, hop=HOPS)
def test_frames_are_the_fewest_that_cover_the_samples(num_samples: int, hop: int) -> None:
    some = spec(hop=hop)
    frames = some.num_frames(num_samples)
    assert some.num_samples(frames) >= num_samples
    assert frames == 0 or some.num_samples(frames - 1) < num_samples


@given(num_frames=st.integers(1, 2**60), hop=st.integers(2, 10_000))
def test_one_sample_more_is_one_frame_more(num_frames: int, hop: int) -> None:
    """However long the track: a division in floats would be off."""
    assert spec(hop=hop).num_frames(num_frames * hop + 1) == num_frames + 1
    assert spec(hop=hop).num_frames(num_frames * hop - 1) == num_frames


@given(num_frames=LENGTHS, hop=HOPS)
def test_whole_frames_survive_the_round_trip(num_frames: int, hop: int) -> None:
    assert spec(hop=hop).num_frames(spec(hop=hop).num_samples(num_frames)) == num_frames


def test_the_frame_rate_is_exact() -> None:
    assert SPEC.frame_rate == Fraction(11_025, 256)
    assert SPEC.frame_rate != 43


@given(frames=st.integers(1, 10**7), rate=st.integers(8_000, 192_000), hop=HOPS)
def test_seconds_become_the_nearest_frame(frames: int, rate: int, hop: int) -> None:
    some = spec(hop=hop, sample_rate=rate)
    assert some.frames_in(float(frames / some.frame_rate)) == frames
    assert some.frames_in(float((frames + Fraction(2, 5)) / some.frame_rate)) == frames


def test_no_time_is_so_short_that_it_has_no_frame() -> None:
    assert SPEC.frames_in(0.0) == SPEC.frames_in(1e-9) == 1


@given(
    values=st.fixed_dictionaries(
        {
            "autoencoder": st.text(),
            "weights": st.text(),
            "sample_rate": st.integers(1, 10**6),
            "hop": HOPS,
            "channels": st.integers(1, 4096),
            "stereo": st.sampled_from(["per_channel", "joint"]),
        }
    )
)
def test_a_specification_survives_as_a_dictionary(values: dict[str, Any]) -> None:
    assert LatentSpec.from_dict(values).to_dict() == values
    assert LatentSpec.from_dict({**values, "added later": 1}).to_dict() == values


def test_missing_fields_are_named() -> None:
    values = SPEC.to_dict()
    del values["hop"], values["weights"]
    with pytest.raises(CacheError, match=r"(?s)here\.json.*\['hop', 'weights'\]"):
        LatentSpec.from_dict(values, where="here.json")


CHANGES: dict[str, Any] = {
    "autoencoder": "other",
    "weights": "cd" * 32,
    "sample_rate": 48_000,
    "hop": 512,
    "channels": 32,
    "stereo": "joint",
}


@given(names=st.sets(st.sampled_from(sorted(CHANGES)), min_size=1))
def test_every_field_that_differs_is_named_and_no_other(names: set[str]) -> None:
    other = replace(SPEC, **{name: CHANGES[name] for name in names})
    with pytest.raises(CacheError) as caught:
        SPEC.require_same(other, where="module.safetensors", remedy="train anew")
    text = str(caught.value)
    assert {name for name in CHANGES if f"{name}:" in text} == names
    assert all(repr(CHANGES[name]) in text and repr(getattr(SPEC, name)) in text for name in names)
    assert "module.safetensors" in text
    assert "try: train anew" in text


def test_an_equal_specification_is_accepted() -> None:
    SPEC.require_same(replace(SPEC), where="here", remedy="none")
