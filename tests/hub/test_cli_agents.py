"""The agents as people see them: what a terminal of 80 columns keeps, live and printed."""

from __future__ import annotations

import pytest
from rich.console import Console

from hub.cli import screen
from hub.cli.agents import live_table, print_agents
from hub.cli.dashboard import Dashboard

REPLAY = {
    "agent": "vm/replay-5173af1d8fb060de", "state": "stopped", "verdict": "left", "session": 1,
    "last_seen": "2026-11-22T09:25:32.117Z", "epoch": "5173af1d8fb060de", "evidence": {"detector": "bye"},
}  # fmt: skip


def seen(shown: object, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as text:
        console.print(shown)
    return text.get().splitlines()


def test_a_live_table_drops_columns_and_cuts_none() -> None:
    header, row = seen(live_table([REPLAY], 80), 80)
    assert "…" not in header + row
    assert row.startswith(REPLAY["agent"])
    assert row.split()[1:3] == ["stopped", "left"]


def test_one_agent_is_named_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "terminal_width", lambda: 80)
    for output in ("table", "wide"):
        print_agents([REPLAY], output)
        header, row = capsys.readouterr().out.splitlines()
        assert header.startswith("agent")
        assert row.startswith(REPLAY["agent"])
        assert len(row) <= 80


class Hub:
    """A hub's answers."""

    def get(self, path: str) -> dict[str, object]:
        books = {"captured": 123_456_789_012, "row": 123_456_789_012, "kernel_dropped": 7, "lost": {"shed": 3}}
        return {"agents": [books if path == "/v1/ledger" else REPLAY]}

    def text(self, path: str) -> str:
        return 'nodetap_hub_rows_stored_total{kind="flows"} 7.0\n'


def test_the_live_table_of_up_fits_and_says_how_to_ask() -> None:
    board = Dashboard("http://127.0.0.1:8480", replay=True)
    shown = seen(board.look(Hub(), 1.0, 0, 80), 80)  # type: ignore[arg-type]
    assert max(map(len, shown)) <= 80
    assert "123,456,789,012" in shown[1]
    assert shown[0].endswith("kernel dropped")
    assert shown[-1] == "all is stored; ask in a second terminal: nodetap packets --since all"
