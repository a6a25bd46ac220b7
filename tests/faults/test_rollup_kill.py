"""kill -9 of a whole hub while it rolls up: whatever it had written, sums say afterwards what the rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from figures import record
from procs import Hub, until
from rollup_rows import NOW, asked, fill

from hub.query.select import Question
from hub.store.rollups import PERIODS
from hub.store.store import Store
from protocol.failpoints import VARIABLE

COMMITS, HOURS = 36, 7
QUESTIONS = (("flows", "ip.dst"), ("calls", "call.operation"))
STATEMENTS = 5
"""That write, for each period: two sums of two tables each, and the lines that say that they count."""
MOMENTS = (1, 2, 4, 5, 6, STATEMENTS + 3, 2 * STATEMENTS + 5, 3 * STATEMENTS + 3, 2)
"""Before which statement of its life each hub is killed; what is summed up already is not summed up again. The last two
are killed when flows of the day are joined, and before the line for its calls."""


def sums(hub: Hub) -> list[list[dict[str, Any]]]:
    """What it answers."""
    done = [
        hub.cli(table, "--by", by, "--top", "0", "--since", "all", "-o", "ndjson").stdout for table, by in QUESTIONS
    ]
    return [[json.loads(line) for line in text.splitlines()] for text in done]


def test_a_hub_that_is_killed_while_it_rolls_up_doubles_nothing(tmp_path: Path) -> None:
    url, halt = f"chdb://{tmp_path}/store", tmp_path / "halt"
    store = Store(url)
    store.open(NOW)
    fill(store, COMMITS)
    store.close()
    options, env = ("--retain-days", "9000", "--retain-rollups", "9000"), {VARIABLE: f"rollup_hang={halt}"}
    answers = []
    for moment in MOMENTS:
        halt.write_text(str(moment))
        hub = Hub(tmp_path, *options, env=env)
        try:
            until(f"it is before statement {moment}", lambda: halt.read_text() == "0")
            answers.append(sums(hub.ready()))
        finally:
            hub.kill()
    assert all(len(rows) > 1 for rows in answers[0])
    assert answers == [answers[0]] * len(MOMENTS), "the first has no sums, and reads rows"
    halt.write_text("1000")
    hub = Hub(tmp_path, *options, env=env).ready()
    try:
        until("the rest is summed up, and nothing else", lambda: halt.read_text() == str(1000 - 2))
        assert sums(hub) == answers[0]
        assert hub.stop() == 0
    finally:
        hub.kill()
    store.open(NOW)
    try:
        assert store.rolled("flows").upto == COMMITS
        _, query = asked(store, Question("flows", by=("ip.dst",), top=0))
        assert query.tables, "sums answer"
        with store.reader() as reader:
            lines = reader.rows(f"SELECT source, count() FROM {PERIODS.name} FINAL GROUP BY source", timeout=30)
        assert dict(lines) == {"flows": HOURS, "calls": HOURS, "flows_day": 1, "calls_day": 1}
    finally:
        store.close()
    record("5", "a hub SIGKILLed while it rolls up", "sums are what the rows give, nothing is summed up twice",
           f"killed before {len(MOMENTS)} of the statements, every answer the same")  # fmt: skip
