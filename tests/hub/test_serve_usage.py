"""What is wrong with the command lines of hub and agent is one line that says what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from procs import environment, program

from hub.cli.main import run
from protocol.options import whereto


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("hub.serve", ["serve"], "nodetap-hub serve: Missing option '--store'. See `nodetap-hub serve --help`."),
        ("hub.serve", ["serve", "--store", "chdb:///proc/x"], "cannot use /proc/x as store"),
        (
            "hub.serve",
            ["serve", "--store", "chdb://x", "--api", "0.0.0.0:0"],
            "listening on 0.0.0.0 needs --token-file",
        ),
        ("hub.serve", ["serve", "--log-format", "json"], "nodetap-hub --log-format ... serve"),
        ("agent.cli", ["run", "--log-level", "debug"], "nodetap-agent --log-level ... run"),
    ],
)
def test_one_line_and_usage(module: str, words: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        program(module, *words),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


def test_an_option_of_the_program_behind_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agents", "--hub-url", "http://127.0.0.1:1"]) == 2
    told = "nodetap agents: No such option '--hub-url'. It stands before the command: nodetap --hub-url ... agents\n"
    assert capsys.readouterr().err == told


def test_where_to_look_for_an_option() -> None:
    assert whereto("--nothing", "nodetap agents", ["--hub-url"]) == "See `nodetap agents --help`."
    assert whereto("--hub-url", "nodetap", ["--hub-url"]) == "See `nodetap --help`."
