"""The progress line: whole lines now and then in a file, one line on a terminal that what is said does not break."""

from __future__ import annotations

import re
from io import StringIO

import pytest

from reencoder_pipeline import progress as progress_module
from reencoder_pipeline.progress import ProgressLine

LINE = re.compile(r"training: 60%, 1\.20k of 2\.00k steps, l1 0\.5, +[\d.]+[kMG]? steps/s, \d\d:\d\d left")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_whole_lines_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    file = StringIO()
    with ProgressLine("training", unit="steps", first=1_000, scaled=True, file=file) as progress:
        progress(1_200, 2_000, note="l1 0.5")
        progress.say("step 1200: valid")
    shown, said = file.getvalue().splitlines()
    assert LINE.fullmatch(shown), shown
    assert said == "step 1200: valid"


def test_a_quick_command_shows_nothing_in_a_file() -> None:
    file = StringIO()
    with ProgressLine("encoding", unit="frames", file=file) as progress:
        for done in range(1_000):
            progress(done, 1_000)
    assert file.getvalue() == ""


def test_escape_sequences_in_names_and_messages_are_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    file = StringIO()
    with ProgressLine("applying", unit="s", file=file) as progress:
        progress.name("a\x1b[2J.wav")
        progress(1, 2)
        progress.say("b\x1b[2J.wav\nis damaged")
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().splitlines()[1:] == [r"b\x1b[2J.wav", "is damaged"]


def test_a_terminal_is_left_with_what_was_said() -> None:
    """What a terminal shows at the end: each carriage return begins the line again."""
    file = Terminal()
    with ProgressLine("encoding", unit="frames", file=file) as progress:
        progress(1, 2)
        progress.say("one file was left out")
        progress(2, 2)
    *lines, last = file.getvalue().split("\n")
    assert [line.split("\r")[-1] for line in lines] == ["one file was left out"]
    assert last.split("\r")[-1].strip() == ""
