"""Foreign text is shown as text: on a terminal, in Markdown, on the page, in pictures."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from rich.console import Console

from example_run import LABELS, write_run
from reencoder_eval.evaluation_folder import CHART, MARKDOWN, RUN, SCORES, read_json, read_rows, write_json
from reencoder_eval.report.figures import stft_d_chart
from reencoder_eval.report.listening_page import write_report
from reencoder_eval.report.module_card import results_of
from reencoder_eval.run_contents import finished_scores
from reencoder_eval.tables.score_tables import write_tables
from reencoder_eval.tables.summary import summarise
from reencoder_eval.tables.text_table import TextTable, markdown, terminal
from reencoder_pipeline import exit_codes as command_line
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.plain_text import markdown_cell, markdown_code, markdown_text, printable
from reencoder_pipeline.stores import atomic as durable
from reencoder_pipeline.stores.jsonl import write_json_lines
from reencoder_trainer.release.module_card import render_card
from trained_modules import make_trained

HOSTILE = [
    "a | b",
    "`code` and ``more``",
    "[link](http://example.org) ![picture](x.png)",
    "<script>alert(1)</script> <img src=x>",
    "two\nlines\n\n# and a heading",
    "*stars* __bars__ ~~struck~~ # $x$",
    "&lt;b&gt; &#60;",
    "\x1b[31mred\x1b[0m \x07 \x9b2J",
    "turned \u202e around \u2066",
    "name of bytes \udcff.wav",
    "$\\frac{",
    "[bold]rich[/bold] [/nothing]",
    "\\",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_markup_is_left_in_markdown(text: str) -> None:
    for shown in (markdown_text(text), markdown_cell(text)):
        bare = re.sub(r"\\[^a-z0-9\s]|&[lg]t;", "", shown)
        assert not re.search(r"[`*<>|~$\\]|\]\(|&#?\w+;|[\x00-\x1f\x7f-\x9f\u202e\u2066\udcff]", bare)
    table = markdown(TextTable(text, ("system", text), ((text, "1.00 [0.50, 1.50]"), ("b", "2"))))
    title, empty, *rows = table.rstrip("\n").split("\n")
    assert (title, empty, len(rows)) == (markdown_cell(text), "", 4)
    assert {len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) for row in rows} == {3}
    assert "1.00 [0.50, 1.50]" in table
    assert "\n" not in markdown_code(text)


def test_what_is_no_markup_stays_readable() -> None:
    assert markdown_cell("x86_64 CPU, 1 threads: 1.41 [1.30, 1.52]") == "x86_64 CPU, 1 threads: 1.41 [1.30, 1.52]"
    assert markdown_cell("Ours (S), lambda 0.5 & more") == "Ours (S), lambda 0.5 & more"
    assert printable("Müller, 音楽 7\u00a0dB 🎵") == "Müller, 音楽 7\u00a0dB 🎵"
    assert printable("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
    assert printable("a\tb\nc\r", lines=True) == "a\tb\nc\\r"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_it(text: str) -> None:
    console = Console(width=400, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(terminal(TextTable(text, ("system", text), ((text, "1"),))))
    shown = console.export_text()
    assert shown.count(printable(text)) == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_labels_and_names_stay_text_in_tables_pages_pictures_and_cards(text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_json_lines(
        run / SCORES,
        [{**row, "label": text if row["system"] == "ours:x" else row["label"]} for row in read_rows(run / SCORES)],
    )
    description = read_json(run / RUN)
    assert description is not None
    write_json(run / RUN, {**description, "title": text, "systems": [{"label": text, "about": text}]})
    write_tables(run)
    table = (run / MARKDOWN).read_text()
    assert markdown_cell(text) in table
    page = write_report(run).read_text()
    assert "<script>alert" not in page
    assert not re.search(r"[\x00-\x08\x0b\x1b\x7f-\x9f\u202e\u2066]", page)
    ElementTree.fromstring((run / CHART).read_text())  # a picture of its own is XML
    assert "\x1b" not in (run / CHART).read_text()
    results = results_of(run, row="x")
    assert f"### {markdown_text(text)}: run, split test" in results
    trained = make_trained(task="bwe")
    card = render_card(
        replace(trained, spec=replace(trained.spec, autoencoder=text)), name=text, licence=text, results=results
    )
    card.encode()
    assert f"# {markdown_text(text)}\n" in card
    body = card.partition("\n---\n")[2]
    headings = [line.partition(" ")[0] for line in body.splitlines() if line.startswith("#")]
    assert headings == ["#", "##", "##", "###", "##"]


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ConfigError("odd", where="a\x1b[2J.wav", value="b\x9b", remedy="c"),
            "error: a\\x1b[2J.wav: odd\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a\x07.wav"), "error: a\\x07.wav: No space left on device\n"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "error: a file could not be written: Disk quota exceeded\n"),
    ],
)
def test_errors_of_commands_are_text_and_a_full_disk_is_one(
    error: Exception, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["fail"])
    with pytest.raises(SystemExit) as left:
        command_line.run(app)
    assert left.value.code == command_line.USAGE
    assert capsys.readouterr().err.startswith(shown)


def test_an_error_of_writing_names_the_file_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "sync", full)
    with pytest.raises(OSError, match=r"a\.txt"):
        durable.write_text(tmp_path / "a.txt", "x")
    assert not list(tmp_path.iterdir())


def test_a_long_label_leaves_room_for_the_bars(tmp_path: Path) -> None:
    summary = summarise(finished_scores(write_run(tmp_path / "run")))
    long = replace(summary, labels={**LABELS, "ours:x": "long " * 200})
    assert len(stft_d_chart(long)) < 2 * len(stft_d_chart(summary))
