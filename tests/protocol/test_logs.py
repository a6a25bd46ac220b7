"""Log lines: one each whoever speaks; one that cannot be written is dropped and the program goes on."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from procs import environment

from protocol.logs import LEVELS

SPEAK = """
from protocol.logs import configure, logger
configure("info", "json")
for _ in range(3):
    logger(program="x").error("no room")
print("alive", flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_log_ends_nothing() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", SPEAK],
            stdout=subprocess.PIPE,
            stderr=full,
            env=environment(),
            timeout=20,
            check=False,
        )
    assert done.stdout == b"alive\n"


DEAF = """
import os
from protocol.logs import configure, dump_stacks, logger
configure("info", "json")
log = logger()
ours, theirs = os.pipe()
os.dup2(theirs, 2)
for number in range(2000):
    log.error("x" * (number % 90) ** 2)
dump_stacks()
os.set_blocking(ours, False)
os.read(ours, 1 << 20)
log.error("heard")
log.error("again")
print(os.read(ours, 1 << 20).decode())
"""


def test_a_log_that_nobody_reads_holds_up_nothing_and_the_next_line_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, env=environment(), timeout=60, check=True
    )
    heard, again = (json.loads(line) for line in done.stdout.splitlines() if line)
    assert heard["event"] == "heard"
    assert 1000 < heard["lines_lost"] < 2000
    assert "lines_lost" not in again


LIBRARY = """
import asyncio, logging
from protocol.logs import configure
configure("info", "json")
log = logging.getLogger("library")
log.info("of no interest")
log.warning("two\\nlines")
for error in (asyncio.CancelledError(), ValueError("wrong")):
    try:
        raise error
    except BaseException:
        log.exception("it failed")
"""


def test_what_a_library_says_is_a_line_like_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], capture_output=True, env=environment(), timeout=20, check=True
    )
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["library"], line["event"]) for line in said] == [
        ("warning", "library", "two\nlines"),
        ("error", "library", "it failed"),
    ]
    assert "ValueError: wrong" in said[1]["exception"]


def test_no_line_overwrites_its_own_keys() -> None:
    """What is given as `level=` would be lost: that key says how grave a line is."""
    root = Path(__file__).parents[2]
    calls = [
        (path, node.lineno, keyword.arg)
        for path in (*root.glob("agent/**/*.py"), *root.glob("hub/**/*.py"), *root.glob("protocol/**/*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
        for keyword in node.keywords
    ]
    assert len(calls) > 100
    assert [call for call in calls if call[2] in ("level", "timestamp")] == []


TOLD = """
from protocol.logs import configure, logger
configure("info", "console")
logger(program="p", agent="a", epoch="e").warning("it happened", wait_s=1, connection="c", reason="because of it")
"""


def test_on_a_terminal_the_reason_comes_first_and_who_speaks_last() -> None:
    done = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, text=True, env=environment(), check=True)
    assert done.stderr.count("\n") == 1
    assert done.stderr.split(maxsplit=1)[1].split("it happened")[1].split() == [
        "reason='because", "of", "it'", "wait_s=1", "agent=a", "epoch=e", "connection=c", "program=p"
    ]  # fmt: skip
