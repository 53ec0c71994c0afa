"""The listening test in a real browser, from a file: what sounds, what is hidden, and what is written down."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from example_run import CLIPS, HOSTILE, LABELS, RATE, write_run
from reencoder_eval.report.listening_page import write_report

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome is installed")
FLAGS = [
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
]
SYSTEMS = ["reference", *LABELS]

DRIVER = """
<script>
const seen = {};
const until = async (condition) => {
  while (!condition()) await new Promise((done) => setTimeout(done, 10));
};
const levels = (player) => player.voices.map(({ gain }) => gain.gain.value);
const heard = async (player, index) => {
  await until(() => Math.abs(levels(player)[index] - player.level(index)) < 1e-4);
  return levels(player).map((level) => Math.round(1000 * level) / 1000);
};
const [first, second] = document.querySelectorAll("article");
const press = (key, target = document) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const mode = (article, name) => article.querySelector(`.modes [value=${name}]`).click();
const shown = (element) => element.checkVisibility();

async function open() {
  const [player, other] = players;
  seen.before = players.map(({ buffers }) => buffers !== null);
  seen.gains = player.gains;
  first.querySelector(".play").click();
  await until(() => player.startedAt !== null);
  seen.start = await heard(player, 0);
  seen.sounds = (await player.buffers).map((buffer) => [buffer.sampleRate, buffer.length]);
  seen.elsewhere = other.buffers !== null;
  press("3");
  seen.key = await heard(player, 2);
  first.querySelectorAll(".choose")[1].click();
  seen.click = await heard(player, 1);
  document.querySelector(".match").click();
  seen.asScored = await heard(player, 1);
  document.querySelector(".match").click();
  seen.matched = await heard(player, 1);
  seen.sources = player.voices.length;
  second.querySelector(".play").click();
  await until(() => other.startedAt !== null);
  seen.states = [first, second].map((article) => article.dataset.state);
  press(" ");
  seen.paused = second.dataset.state;
}

async function abx() {
  const [player] = players, test = player.tests.abx;
  seen.shownBefore = shown(first.querySelector(".signals"));
  mode(first, "abx");
  seen.hidden = [".signals", "img", "dl", ".rating"].map((part) => shown(first.querySelector(part)));
  seen.pair = [...test.pair];
  press("1");
  seen.unheard = results.records.length; // X has not been played
  let heardRight = true;
  for (let trial = 0; trial < 8; trial++) {
    for (const letter of ["a", "b", "x"]) {
      press(letter);
      await until(() => player.startedAt !== null);
      const index = test.trial[letter.toUpperCase()];
      heardRight &&= (await heard(player, index)).every((level, place) => (level > 0) === (place === index));
    }
    const correct = test.trial.X === test.trial.A ? ["1", "ArrowLeft"] : ["2", "ArrowRight"];
    const wrong = test.trial.X === test.trial.A ? "2" : "1";
    press(trial < 6 ? correct[trial % 2] : wrong);
  }
  seen.heardRight = heardRight;
  seen.verdicts = [first.querySelector(".verdicts").textContent];
  first.querySelector(".abx .finish").click();
  seen.verdicts.push(first.querySelector(".verdicts").textContent);
  const drawn = [...Array(400)].map(() => (test.next(), test.trial));
  seen.fair = [drawn.filter(({ A, X }) => X === A), drawn.filter(({ A }) => A === test.pair[0])]
    .every(({ length }) => length > 120 && length < 280);
  const choice = first.querySelectorAll(".abx select")[1];
  choice.value = "0";
  choice.dispatchEvent(new Event("change"));
  seen.swapped = test.pair;
}

async function rating() {
  const [, player] = players, test = player.tests.rating;
  mode(second, "rating");
  seen.hiddenInRating = [".signals", "img", "dl", ".abx", ".name"].map((part) => shown(second.querySelector(part)));
  press("2");
  await until(() => player.startedAt !== null);
  seen.second = (await heard(player, test.order[1])).map((level) => level > 0).indexOf(true) === test.order[1];
  press("0");
  seen.reference = (await heard(player, 0)).map((level) => level > 0).indexOf(true);
  press(" ");
  const sliders = [...second.querySelectorAll(".rater input")];
  seen.slidersKeepTheirKeys = press("ArrowRight", sliders[0]);
  const finish = second.querySelector(".rating .finish");
  test.order.forEach((index, place) => {
    seen.finishedEarly ||= !finish.disabled;
    sliders[place].value = 90 - 10 * index;
    sliders[place].dispatchEvent(new Event("input"));
  });
  seen.namesBefore = second.querySelector(".rating").textContent.includes("Input (sinc)");
  finish.click();
  seen.names = test.order.every((index, place) =>
    second.querySelectorAll(".rater .name")[place].textContent === player.labels.get(player.names[index]));
  const orders = [...Array(60)].map(() => (test.next(), test.order.join()));
  seen.orders = new Set(orders).size; // of 24
}

function kept() {
  const before = JSON.stringify(results.records);
  results.records = [];
  results.restore();
  seen.stored = JSON.stringify(results.records) === before;
  for (const button of document.querySelectorAll(".download")) button.click();
  Storage.prototype.setItem = () => { throw new DOMException("refused", "SecurityError"); };
  results.save();
  seen.refused = document.querySelector(".results output").textContent;
  window.confirm = () => true;
  document.querySelector(".clear").click();
  seen.deleted = results.records.length === 0 && !first.querySelector(".verdicts").textContent;
  seen.chances = [[0, 3], [3, 3], [9, 12]].map(([correct, trials]) => guessing(correct, trials));
}

function sorting() {
  const table = document.querySelector("table"), headings = table.querySelectorAll("th");
  const column = [...headings].findIndex((heading) => heading.textContent.startsWith("STFT-D"));
  seen.sorted = [1, 2, 3].map(() => {
    headings[column].querySelector("button").click();
    const systems = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
    return [headings[column].getAttribute("aria-sort"), ...systems];
  });
  const cells = document.createElement("table");
  for (const text of ["-", "+0.5 [9, 9]", "12%", "-3", "7 (1 / 2)"]) cells.insertRow().insertCell().textContent = text;
  seen.numbers = [true, false].map((up) => sorted([...cells.rows], 0, up).map((row) => row.textContent));
}

(async () => {
  try {
    await open();
    await abx();
    await rating();
    kept();
    sorting();
  } catch (error) {
    seen.error = `${error} ${error.stack}`;
  }
  fetch("ADDRESS", { method: "POST", mode: "no-cors", body: JSON.stringify(seen) });
})();
</script>
"""


DOWNLOADS = ("listening.json", "listening.csv")


class Answers(HTTPServer):
    """Takes what the page reports; its clock and Chromium's are real ones, as those of the sound are."""

    def __init__(self) -> None:
        self.received: dict[str, Any] | None = None
        super().__init__(("127.0.0.1", 0), self.Answer)
        self.timeout = 120

    class Answer(BaseHTTPRequestHandler):
        server: Answers

        def do_POST(self) -> None:
            self.server.received = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def seen(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one visit to the page reports."""
    assert CHROMIUM is not None
    folder = tmp_path_factory.mktemp("browser")
    page = write_report(write_run(folder / "run"))
    preferences = folder / "profile" / "Default" / "Preferences"
    preferences.parent.mkdir(parents=True)
    settings = {
        "download": {"default_directory": str(downloads), "prompt_for_download": False},
        "profile": {"default_content_setting_values": {"automatic_downloads": 1}},  # two without a click between them
    }
    preferences.write_text(json.dumps(settings))
    with Answers() as answers:
        driver = DRIVER.replace("ADDRESS", f"http://127.0.0.1:{answers.server_port}/")
        page.write_text(page.read_text(encoding="utf-8").replace("</body>", driver + "</body>"), encoding="utf-8")
        flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}"]
        with subprocess.Popen([CHROMIUM, *flags, page.as_uri()], stderr=subprocess.DEVNULL) as browser:
            answers.handle_request()
            given_up = time.monotonic() + 60  # a download has its name once it is whole, maybe after this
            while not all((downloads / name).exists() for name in DOWNLOADS) and time.monotonic() < given_up:
                time.sleep(0.05)
            browser.terminate()
    assert answers.received is not None
    assert "error" not in answers.received, answers.received["error"]
    return answers.received


def test_signals_are_switched_in_step_and_at_the_loudness_of_the_reference(seen: dict[str, Any]) -> None:
    gains = [pytest.approx(gain, abs=0.001) for gain in seen["gains"]]
    assert seen["gains"][3] > 2
    assert seen["before"] == [False, False]  # nothing is decoded before it is played
    assert seen["start"] == [gains[0], 0, 0, 0]
    assert seen["sounds"] == [[RATE, RATE]] * 4
    assert not seen["elsewhere"]
    assert seen["key"] == [0, 0, gains[2], 0]
    assert seen["click"] == seen["matched"] == [0, gains[1], 0, 0]
    assert seen["asScored"] == [0, 1, 0, 0]
    assert seen["sources"] == 4  # still the ones that were started together
    assert seen["states"] == ["stopped", "playing"]  # one clip at a time
    assert seen["paused"] == "stopped"


def test_abx_hides_names_counts_answers_and_draws_fairly(seen: dict[str, Any]) -> None:
    assert seen["shownBefore"]
    assert not any(seen["hidden"])
    assert seen["pair"] == [0, 3]
    assert seen["unheard"] == 0
    assert seen["heardRight"]
    assert seen["verdicts"] == ["", f"Reference / {HOSTILE}: 6 of 8 correct, p = 0.145"]
    assert seen["fair"]
    assert seen["swapped"] == [3, 0]
    assert seen["chances"] == pytest.approx([1, 1 / 8, 299 / 4096])


def test_a_rating_is_blind_until_it_is_saved(seen: dict[str, Any]) -> None:
    assert not any(seen["hiddenInRating"])
    assert seen["second"]
    assert seen["reference"] == 0
    assert seen["slidersKeepTheirKeys"]
    assert not seen["finishedEarly"]
    assert not seen["namesBefore"]
    assert seen["names"]
    assert seen["orders"] > 12


def test_answers_are_stored_and_downloaded(seen: dict[str, Any], downloads: Path) -> None:
    assert seen["stored"]
    assert seen["refused"].startswith("8 A/B/X trials, 4 ratings. This browser does not store answers")
    assert seen["deleted"]
    written = json.loads((downloads / "listening.json").read_text(encoding="utf-8"))
    with (downloads / "listening.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    as_text = [{name: str(value).lower() for name, value in record.items()} for record in written["records"]]
    assert [{name: value.lower() for name, value in row.items() if value} for row in rows] == as_text
    trials, ratings = written["records"][:8], written["records"][8:]
    assert [trial["correct"] for trial in trials] == [True] * 6 + [False] * 2
    assert all((trial["x"] == trial["answer"]) == trial["correct"] for trial in trials)
    assert {(trial["clip"], trial["first"], trial["second"]) for trial in trials} == {(CLIPS[0], "reference", "ours:x")}
    assert {rating["system"]: rating["rating"] for rating in ratings} == dict(
        zip(SYSTEMS, (90, 80, 70, 60), strict=True)
    )
    assert {rating["clip"] for rating in ratings} == {CLIPS[1]}
    assert all(record["loudness_matched"] and record["time"].endswith("Z") for record in written["records"])
    (series,) = written["abx"]
    assert (series["trials"], series["correct"], series["p_value"]) == (8, 6, pytest.approx(37 / 256))


def test_a_table_is_sorted_up_down_and_back(seen: dict[str, Any]) -> None:
    rows = list(LABELS.values())
    assert seen["sorted"] == [["ascending", *rows], ["descending", *rows[::-1]], [None, *rows]]
    assert seen["numbers"] == [
        ["-3", "+0.5 [9, 9]", "7 (1 / 2)", "12%", "-"],
        ["12%", "7 (1 / 2)", "+0.5 [9, 9]", "-3", "-"],
    ]
