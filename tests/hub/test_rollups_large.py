"""Sums of many groups in bounded memory."""

from __future__ import annotations

from pathlib import Path

from rollup_rows import NOW

from hub.store import rollups
from hub.store.store import Store

ROWS, MEMORY = 200_000, 256 << 20


def test_calls_that_have_a_group_each_are_summed_up_in_little_memory(tmp_path: Path) -> None:
    """In a third of the memory; a period has ten times as many rows at most."""
    store = Store(f"chdb://{tmp_path}/store")
    store.open(NOW)
    client = store._engine.client()
    client.command(
        "INSERT INTO calls (commit, start, operation, latency) "
        f"SELECT 1, {NOW}, 'GET /' || toString(number), number FROM numbers({ROWS})"
    )
    client.command("INSERT INTO periods (source, first, last, roll) VALUES ('calls', 1, 1, 7)")
    for statement in (*rollups.roll_up("calls", 1, 1, 7, 0).values(), rollups.join("calls", 1, 1, 8, 0)):
        text = f"max_memory_usage = {rollups._SETTINGS['max_memory_usage']}"
        assert text in statement
        client.command(statement.replace(text, f"max_memory_usage = {MEMORY}"))
    for step, roll in (("minute", 7), ("hour", 7), ("day", 8)):
        assert client.command(rollups.rolled("calls", step, roll)) == ROWS
    client.close()
    store.close()
