"""The report: one file that needs nothing else, shows what was measured, and switches between signals in step."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from reencoder_eval.figures import PICTURE, log_spectrogram, spectrogram_pictures, stft_d_chart
from reencoder_eval.listening_page import write_report
from reencoder_eval.run_folder import CHART, COSTS, FAILURES, REPORT, RUN, SCORES, audio_path, write_json, write_rows
from reencoder_eval.tables import PAPER_TABLE_1, summarise
from reencoder_pipeline.errors import EvaluationError

RATE, SECONDS = 44_100, 1.0
HOSTILE = "<script>alert('x')</script> & \"Ours\""
LABELS = {"autoencoder": "Autoencoder, full band", "sinc": "Input (sinc)", "ours:x": HOSTILE}
CLIPS = ("first at 1.000 s", "second & last at 2.000 s", "unheard at 3.000 s")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def tone(hertz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(SECONDS * RATE)) / RATE)).astype(np.float32)


def write_run(run: Path) -> Path:
    """A run of three clips, two of them with audio, as `evaluate` leaves it."""
    count = {
        "gflops": 0.37,
        "gflops_torch": 0.3,
        "parameters": 4_300_000,
        "note": "calflops <0.37>, torch 0.30: a reason",
    }
    rows: list[dict[str, Any]] = []
    (run / "audio").mkdir(parents=True)
    for number, clip in enumerate(CLIPS):
        for place, (system, label) in enumerate(LABELS.items()):
            value = 1 + number + 0.1 * place
            bands = {"full": value, "low": value / 2, "high": None if number == 1 else 2 * value}
            scores = {f"{metric}_{band}": bands[band] for metric in ("stft_d", "mel_d") for band in bands}
            row = {"clip": clip, "track": clip, "system": system, "label": label, "scores": scores, "key": f"{number}"}
            rows.append(row)
            if number < 2:
                path = audio_path(run, clip, system, key=row["key"])
                soundfile.write(str(path), tone(500.0 * (place + 2)), RATE)
        if number < 2:
            soundfile.write(str(audio_path(run, clip, "reference")), tone(500.0), RATE)
    write_rows(run / SCORES, rows)
    write_rows(run / FAILURES, [{"where": "<b>broken</b>.wav", "what": "cannot be read", "found": "text"}])
    description = {
        "title": "Bandwidth extension & more",
        "split": "test",
        "clip_seconds": SECONDS,
        "sample_rate": RATE,
        "autoencoder": {"autoencoder": "<house>", "channels": 64, "hop": 1024, "sample_rate": RATE},
        "resampler": "soxr_vhq",
        "systems": [{"label": label, "about": f"about {name}"} for name, label in LABELS.items()],
        "clips": [{"id": clip, "licence": "CC <BY>"} for clip in CLIPS],
        "listening": CLIPS[:2],
        "silent": [],
        "too_short": ["a", "b"],
    }
    write_json(run / RUN, description)
    systems = {name: {"stages": ["encode"], "module": count, "times_real_time": 5.0} for name in LABELS}
    write_json(run / COSTS, {"autoencoder": {"encode": count}, "systems": systems, "machine": "a machine"})
    return run


class Page(HTMLParser):
    """What a browser would fetch, and the text and sounds of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.sounds: list[bytes] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._open.append((tag, dict(attrs)))

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


def test_tables_show_the_scores_the_paper_and_what_was_left_out(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    for shown in (
        "3 clips of 1 s from 3 tracks of the test split",
        "2.00 (1.00 / 4.00)",
        "2 tracks shorter than a clip",
    ):
        assert shown in text
    for label, _, stft_d, _ in PAPER_TABLE_1:
        assert f"{label} " in text
        assert f"{stft_d[0]:.2f} ({stft_d[1]:.2f} / {stft_d[2]:.2f})" in text
    assert "2.00 (1.00 / -)" in text  # a clip whose high band is silent
    assert "<house>, 64 channels, one frame for 1024 samples at 44.1 kHz" in text
    assert "autoencoder, encode: 0.37 (0.30 by torch's own counter), 4.30 million parameters;" in text
    assert "The high band was scored on 2 clips" in text
    assert "calflops <0.37>, torch 0.30: a reason" in text


def test_a_run_without_audio_has_a_page_without_players(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    description = json.loads((run / RUN).read_text())
    write_json(run / RUN, {**description, "listening": []})
    assert "article" not in Page(write_report(run).read_text()).tags


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="not the folder of an evaluation"):
        write_report(tmp_path)


def test_a_spectrogram_shows_a_tone_at_its_frequency() -> None:
    spectrogram = log_spectrogram(tone(5_000.0))
    assert spectrogram.shape == (1025, PICTURE[0])
    assert (np.abs(spectrogram.argmax(axis=0) * RATE / 2048 - 5_000) < RATE / 2048).all()
    assert log_spectrogram(np.zeros(100, np.float32)).max() == -120


def test_pictures_of_a_clip_share_one_scale() -> None:
    import io

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
    assert "Autoencoder, full band" in svg
    assert "<script>" not in svg
    rows = [json.loads(line) for line in (run / SCORES).read_text().splitlines()]
    assert stft_d_chart(summarise(rows)) == svg


DRIVER = """
<script>
(async () => {
  const seen = {}, wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const gains = (player) => player.voices.map(({ gain }) => Math.round(gain.gain.value * 100) / 100);
  const settled = async (player, index) => {
    for (let tries = 0; tries < 500 && gains(player)[index] !== 1; tries++) await wait(20);
    return gains(player);
  };
  const key = (name) => document.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  try {
    seen.before = players.map((player) => player.buffers !== null);
    document.querySelectorAll(".play")[0].click();
    while (players[0].startedAt === null) await wait(10);
    seen.start = await settled(players[0], 0);
    seen.sounds = (await players[0].buffers).map((buffer) => [buffer.sampleRate, buffer.length]);
    seen.elsewhere = players[1].buffers !== null;
    key("3");
    seen.key = await settled(players[0], 2);
    document.querySelectorAll(".choose")[1].click();
    seen.click = await settled(players[0], 1);
    seen.sources = players[0].voices.length;
    document.querySelectorAll(".play")[1].click();
    while (players[1].startedAt === null) await wait(10);
    seen.states = [...document.querySelectorAll("article")].map((article) => article.dataset.state);
    key(" ");
    seen.paused = document.querySelectorAll("article")[1].dataset.state;
  } catch (error) {
    seen.error = String(error);
  }
  fetch("ADDRESS", { method: "POST", mode: "no-cors", body: JSON.stringify(seen) });
})();
</script>
"""


class Answers(HTTPServer):
    """Takes what the page reports; its clock and Chromium's are real ones, as those of the sound are."""

    def __init__(self) -> None:
        self.received: dict[str, Any] | None = None
        super().__init__(("127.0.0.1", 0), self.Answer)
        self.timeout = 60

    class Answer(BaseHTTPRequestHandler):
        server: Answers

        def do_POST(self) -> None:
            self.server.received = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome is installed")
def test_a_browser_switches_between_signals_in_step(html: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--autoplay-policy=no-user-gesture-required",
        "--remote-debugging-port=0",  # without one, a headless browser leaves when the page has loaded
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    page = tmp_path / "page.html"
    with Answers() as answers:
        driver = DRIVER.replace("ADDRESS", f"http://127.0.0.1:{answers.server_port}/")
        page.write_text(html.replace("</body>", driver + "</body>"), encoding="utf-8")
        with subprocess.Popen([CHROMIUM, *flags, page.as_uri()], stderr=subprocess.DEVNULL) as browser:
            answers.handle_request()
            browser.terminate()
    assert answers.received == {
        "before": [False, False],  # nothing is decoded before it is played
        "start": [1, 0, 0, 0],
        "sounds": [[RATE, RATE]] * 4,
        "elsewhere": False,
        "key": [0, 0, 1, 0],
        "click": [0, 1, 0, 0],
        "sources": 4,  # still the ones that were started together
        "states": ["stopped", "playing"],  # one clip at a time
        "paused": "stopped",
    }
