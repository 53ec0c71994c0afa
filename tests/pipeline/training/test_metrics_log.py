"""metrics.jsonl of a run that is resumed: what is later goes, what is sound stays, what is damaged is said once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reencoder_eval.evaluation_folder import read_rows as read_scores
from reencoder_pipeline.errors import CheckpointError, EvaluationError
from reencoder_pipeline.training.metrics_log import MetricsLog, read_rows
from reencoder_trainer.run_list import list_runs
from tiny_cache import write_cache
from training_run import run
from written_runs import write_run

NESTED = b"[" * 200_000
DAMAGE = {
    "a flipped bit": b'zkind": "train", "step": 4, "l1": 0.1}',
    "no row": b'{"kind": "train", "l1": 0.1}',
    "a step in words": b'{"kind": "train", "step": "4", "l1": 0.1}',
    "half a step": b'{"kind": "train", "step": 4.5, "l1": 0.1}',
    "a truth value": b'{"kind": "train", "step": true, "l1": 0.1}',
    "infinity": b'{"kind": "train", "step": Infinity, "l1": 0.1}',
    "no kind": b'{"kind": 3, "step": 4}',
    "a list": b"[4]",
    "a number": b"4",
    "nested": NESTED,
    "nested in a row": b'{"kind": "train", "step": 4, "l1": ' + NESTED,
    "not UTF-8": b'{"kind": "train\xff", "step": 4}',
    "a flipped newline": b'{"kind": "train", "step": 2}\x0b{"kind": "train", "step": 4}',
    "carriage return": b'{"kind": "train",\r "step": 4, "l1": 0\r.1}',
    "UTF-16": '{"kind": "train", "step": 4}'.encode("utf-16")[:-1],
    "many digits": b'{"kind": "train", "step": ' + b"9" * 5_000 + b"}",
    "nothing": b"",
    "zeros": b"\0" * 40,
}


@pytest.mark.parametrize("damaged", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_damaged_rows_stay_and_so_do_those_behind_them(damaged: bytes, place: int, tmp_path: Path) -> None:
    lines = [row(1), row(2), row(3, "valid"), row(4)]
    lines.insert(place, damaged)
    left, said = opened(tmp_path, b"\n".join([*lines, row(5), row(6)]) + b"\n", step=4)
    assert left == b"\n".join(lines) + b"\n"
    assert said == f"{tmp_path / 'metrics.jsonl'}: damaged lines, which are kept as they are: 1"
    rows, number = read_rows(tmp_path / "metrics.jsonl")
    assert ([each["step"] for each in rows], number) == ([1, 2, 3, 4], 1)


def test_a_row_whose_step_has_changed_takes_no_other_with_it(tmp_path: Path) -> None:
    """A flipped bit that makes another number of it looks like a later row."""
    left, said = opened(tmp_path, b"\n".join([row(1), row(7), row(3), b"?", row(4), row(5)]) + b"\n", step=4)
    assert left == b"\n".join([row(1), row(3), b"?", row(4)]) + b"\n"
    assert said.endswith("kept as they are: 1")


@pytest.mark.parametrize(
    ("tail", "stays"),
    [
        (b"?\n", b"?\n"),  # perhaps of the restored step
        (b"?\n" + b'{"kind": "train", "step": 5}\n', b"?\n"),
        (b'{"kind": "train", "step": 5}\n?\n', b""),  # behind a later row
        (b'{"kind": "train", "ste', b""),  # what a kill left unfinished
        (b'{"kind": "train", "step": 5', b""),
        (b'{"kind": "train", "step": 4}', b'{"kind": "train", "step": 4}\n'),
        (b"", b""),
    ],
)
def test_the_end_is_cut_where_it_is_later_or_unfinished(tail: bytes, stays: bytes, tmp_path: Path) -> None:
    left, _ = opened(tmp_path, row(4) + b"\n" + tail, step=4)
    assert left == row(4) + b"\n" + stays


@pytest.mark.parametrize("content", [b"", b'{"kind"', b'{"kind": "train", "step": 1}\n'])
def test_a_run_that_begins_has_no_rows(content: bytes, tmp_path: Path) -> None:
    assert opened(tmp_path, content, step=0) == (b"", "")


def test_metrics_that_are_a_folder_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: the run's metrics cannot be read"):
        opened(tmp_path, None, step=4)


def test_a_training_resumes_with_a_damaged_row(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache, out = write_cache(tmp_path / "cache"), tmp_path / "run"
    run(cache, out, steps=10)
    before = (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    before[1] = bytes([before[1][0] ^ 1]) + before[1][1:]
    (out / "metrics.jsonl").write_bytes(b"\n".join(before) + b"\n")
    run(cache, out, resume=True)
    assert (out / "metrics.jsonl").read_bytes().split(b"\n")[: len(before)] == before
    assert capfd.readouterr().err.count("damaged lines, which are kept as they are: 1") == 1


def test_a_term_that_begins_between_two_rows_is_averaged_over_the_steps_that_have_it(tmp_path: Path) -> None:
    """A baseline's discriminator begins at `adversary_from`, wherever a row ends."""
    with MetricsLog(tmp_path, step=0, log_every=3) as log:
        for step, more in enumerate(({}, {"discriminator": 2.0}, {"discriminator": 4.0}), 1):
            log.train(step, {"l1": float(step), **more})
    ((only,), _) = read_rows(tmp_path / "metrics.jsonl")
    assert (only["l1"], only["discriminator"]) == (2.0, 3.0)


@pytest.mark.parametrize("damaged", ["nested", "not UTF-8", "a number", "a list", "no kind", "infinity"])
def test_the_list_of_runs_counts_damaged_lines(damaged: str, tmp_path: Path) -> None:
    rows = [{"kind": "train", "step": 2, "l1": 0.1, "steps_per_second": "fast"}]
    write_run(tmp_path / "run", [*rows, {"kind": "valid", "step": 4, "l1": "low", "kl": 2.0}])
    with (tmp_path / "run/metrics.jsonl").open("ab") as file:
        file.write(DAMAGE[damaged] + b'\n{"kind": "warning", "step": 6}\n')
    (found,), unreadable = list_runs(tmp_path)
    assert not unreadable
    assert (found.step, found.valid, found.steps_per_second) == (6, {"kl": 2.0}, None)
    assert found.warnings[-1] == "damaged lines in metrics.jsonl: 1"


@pytest.mark.parametrize("damaged", ["a flipped bit", "a list", "a number", "nested", "not UTF-8", "many digits"])
def test_scores_with_a_damaged_row_are_an_error(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_bytes(b'{"clip": "a"}\n' + DAMAGE[damaged] + b'\n{"cl')
    with pytest.raises(EvaluationError, match=r"scores\.jsonl:2: the line is not a JSON object"):
        read_scores(tmp_path / "scores.jsonl")


def row(step: int, kind: str = "train") -> bytes:
    return json.dumps({"kind": kind, "step": step, "l1": step / 10}).encode()


def opened(folder: Path, content: bytes | None, *, step: int) -> tuple[bytes, str]:
    """metrics.jsonl, and what is said, once the log has been opened at `step`."""
    if content is not None:
        (folder / "metrics.jsonl").write_bytes(content)
    said: list[str] = []
    MetricsLog(folder, step=step, log_every=1, say=said.append).__exit__()
    return (folder / "metrics.jsonl").read_bytes(), "\n".join(said)
