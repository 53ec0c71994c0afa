"""The report: one file that needs nothing else, shows what was measured, and switches between signals in step."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from example_run import CLIPS, HOSTILE, LABELS, RATE, tone, write_run
from reencoder_eval.evaluation_folder import CHART, COSTS, REPORT, RUN, SCORES, audio_path, read_rows, write_json
from reencoder_eval.metrics.loudness import integrated_loudness
from reencoder_eval.report.figures import PICTURE, as_file, log_spectrogram, spectrogram_pictures, stft_d_chart
from reencoder_eval.report.listening_page import listening_clip, write_report
from reencoder_eval.tables.paper import TABLE_1
from reencoder_eval.tables.summary import summarise
from reencoder_pipeline.errors import EvaluationError


class Page(HTMLParser):
    """What a browser would fetch, every start tag, and the text and sounds of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[dict[str, str]] = []
        self.text: list[str] = []
        self.sounds: list[bytes] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append({name: value or "" for name, value in attrs})
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._open.append((tag, dict(attrs)))

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for attributes in self.attributes if name in attributes.get("class", "").split()]

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") == "text/plain":
            self.sounds.append(base64.b64decode(data, validate=True))
        elif tag not in ("script", "style"):
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("page") / "run")
    assert write_report(folder) == folder / REPORT
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return (run / REPORT).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_needs_nothing_beside_itself(page: Page, html: str) -> None:
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)  # the chart refers to its own clip paths
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(", html)


def test_names_are_shown_and_not_executed(page: Page, html: str) -> None:
    text = "".join(page.text)
    assert HOSTILE in text
    assert "<b>broken</b>.wav" in text
    assert "CC <BY>" in text
    assert "<script>alert" not in html
    assert page.tags.count("script") == 2 * (len(LABELS) + 1) + 1  # the sounds, and the player


def test_every_heard_clip_has_all_signals_as_flac(page: Page, run: Path) -> None:
    assert page.tags.count("article") == 2
    rows = [json.loads(line) for line in (run / SCORES).read_text().splitlines()]
    expected = []
    for clip in CLIPS[:2]:
        expected.append(audio_path(run, clip, "reference").read_bytes())
        expected += [audio_path(run, clip, r["system"], key=r["key"]).read_bytes() for r in rows if r["clip"] == clip]
    assert page.sounds == expected
    assert all(sound.startswith(b"fLaC") for sound in page.sounds)
    assert page.tags.count("img") == len(expected)


def test_played_with_their_gains_the_signals_of_a_clip_are_equally_loud(page: Page) -> None:
    gains = [float(signal["data-gain"]) for signal in page.of_class("signal")]
    audio = [soundfile.read(io.BytesIO(sound))[0] for sound in page.sounds]
    loudness = [integrated_loudness(g * x[None], sample_rate=RATE) for g, x in zip(gains, audio, strict=True)]
    for clip in (loudness[:4], loudness[4:]):
        assert clip == pytest.approx([clip[0]] * 4, abs=0.01)
    assert gains[0] == 1  # nothing had to be lowered
    assert gains[3] > 2
    assert "(+0.0\u00a0dB)" in "".join(page.text)


def signals_of_the_first_clip(run: Path) -> list[dict[str, Any]]:
    rows = read_rows(run / SCORES)
    return listening_clip(run, {"id": CLIPS[0]}, rows, summarise(rows))["signals"]


def test_a_signal_that_would_clip_lowers_the_whole_clip(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    click = tone(2000.0, level=0.02)
    click[1000] = 0.9
    soundfile.write(str(audio_path(run, CLIPS[0], "sinc", key="0")), click, RATE)
    gains = [signal["gain"] for signal in signals_of_the_first_clip(run)]
    assert gains[0] < 0.5
    assert gains[2] * 0.9 == pytest.approx(1, abs=0.001)


def test_a_and_b_are_the_reference_and_our_first_until_the_listener_chooses(page: Page) -> None:
    chosen = [attributes["value"] for attributes in page.attributes if "selected" in attributes]
    assert chosen == ["0", "3"] * 2
    assert [signal["data-system"] for signal in page.of_class("signal")][:4] == ["reference", *LABELS]
    assert page.of_class("signal")[3]["data-label"] == HOSTILE
    assert [one["data-clip"] for one in page.attributes if "data-clip" in one] == list(CLIPS[:2])
    assert len(page.of_class("rater")) == 8


def test_every_column_can_be_sorted_with_the_keyboard(html: str) -> None:
    headings = re.findall(r"<th scope=\"col\">(.*?)</th>", html)
    assert len(headings) > 10
    assert all(re.fullmatch(r"<button type=\"button\">[^<]+</button>", heading) for heading in headings)


def test_two_channels_are_pictured_as_mid_and_side(tmp_path: Path) -> None:
    signals = signals_of_the_first_clip(write_run(tmp_path / "run", channels=2))
    assert [[name for name, _ in signal["pictures"]] for signal in signals] == [["mid", "side"]] * 4
    assert len({address for signal in signals for _, address in signal["pictures"]}) == 8
    assert soundfile.read(io.BytesIO(base64.b64decode(signals[0]["sound"])))[0].shape == (RATE, 2)  # as it was scored


def test_tables_show_the_scores_the_paper_and_what_was_left_out(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    for shown in (
        "3 clips of 1 s from 3 tracks of the test split",
        "2.00 (1.00 / 4.00)",
        "2 tracks shorter than a clip",
    ):
        assert shown in text
    for row in TABLE_1:
        assert f"{row.label} " in text
        assert "{stft_d_full:.2f} ({stft_d_low:.2f} / {stft_d_high:.2f})".format(**row.values) in text
    assert "2.00 (1.00 / -)" in text  # a clip whose high band is silent
    assert "<house>, 64 channels, one frame per 1024 samples at 44.1 kHz" in text
    assert "Autoencoder, encode 4.30 0.37" in text
    assert "measured on a machine" in text
    assert "The high band was scored on 2 clips" in text
    assert "for <two> channels: a reason" in text


def test_a_run_without_audio_has_a_page_without_players(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    description = json.loads((run / RUN).read_text())
    write_json(run / RUN, {**description, "listening": []})
    assert "article" not in Page(write_report(run).read_text()).tags


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="not that of an evaluation"):
        write_report(tmp_path)


def test_a_spectrogram_shows_a_tone_at_its_frequency() -> None:
    spectrogram = log_spectrogram(tone(5_000.0))
    assert spectrogram.shape == (1025, PICTURE[0])
    assert (np.abs(spectrogram.argmax(axis=0) * RATE / 2048 - 5_000) < RATE / 2048).all()
    assert log_spectrogram(np.zeros(100, np.float32)).max() == -120


def test_pictures_of_a_clip_share_one_scale() -> None:
    from PIL import Image

    loud, quiet = tone(5_000.0), 0.01 * tone(5_000.0)
    pictures = [Image.open(io.BytesIO(picture)).convert("L") for picture in spectrogram_pictures([loud, quiet])]
    assert {picture.size for picture in pictures} == {PICTURE}
    brightest = [np.asarray(picture).max() for picture in pictures]
    assert brightest[1] < brightest[0] - 50
    row = np.asarray(pictures[0]).mean(axis=1).argmax()
    assert row == pytest.approx(PICTURE[1] * (1 - 5_000 / (RATE / 2)), abs=2)  # low frequencies are at the bottom


def test_the_chart_is_an_svg_in_the_ink_of_the_page(run: Path) -> None:
    svg = (run / CHART).read_text()
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "<svg color=" in svg, "a file has no text around it whose colour it could take"
    assert "Autoencoder, full band" in svg
    assert "<script>" not in svg
    rows = [json.loads(line) for line in (run / SCORES).read_text().splitlines()]
    assert as_file(stft_d_chart(summarise(rows), json.loads((run / COSTS).read_text()))) == svg
