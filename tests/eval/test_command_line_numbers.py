"""Numbers on the command line of reencoder-cache that nothing can be done with: exit 2, and the option is named."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from reencoder_pipeline.cli import app

OPTIONS = {
    "--seconds": ["plan", "MUSIC"],
    "--rate": ["plan", "MUSIC"],
    "--hours-of-corpus": ["plan", "MUSIC"],
    "--devices": ["plan", "MUSIC"],
    "--windows": ["inspect", "CACHE"],
    "--samples": ["verify", "CACHE"],
    "--frames": ["export", "CACHE", "--out", "OUT"],
    "--seed": ["verify", "CACHE"],
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e30", "1" + "0" * 30, "-1"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_without_sense_is_refused_by_its_name(option: str, value: str) -> None:
    done = CliRunner().invoke(app, [*OPTIONS[option], f"{option}={value}"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert option in done.output
