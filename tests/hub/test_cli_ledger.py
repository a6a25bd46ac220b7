"""The ledger as a table: what is kept of it in a narrow terminal."""

from __future__ import annotations

import pytest

from hub.cli import screen
from hub.cli.ledger import print_books
from hub.cli.screen import wrapped

NODE = "gke-prod-pool-1-8d2f-x7kq"
RUN = {"agent": NODE, "epoch": "299102d38967fc8a", "captured": 6880, "row": 6880, "balanced": True, "complete": True}
GONE = {"agent": "node-3", "complete": False, "unreported_since": "2026-11-21T23:41:40.689000000Z"}
BOOKS = {"agents": [RUN, {**RUN, **GONE}], "balanced": True, "complete": False}


def lines(capsys: pytest.CaptureFixture[str], books: dict[str, object]) -> list[str]:
    print_books(books)
    return capsys.readouterr().out.splitlines()


def test_a_narrow_terminal_keeps_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "terminal_width", lambda: 80)
    printed = lines(capsys, BOOKS)
    assert max(map(len, printed)) <= 80
    assert printed[0].split() == ["agent", "captured", "row"]
    assert printed[2].split("  ")[-1] == "unreported since 11-21 23:41:40Z"
    lost = {**BOOKS, "agents": [RUN, {**RUN, "lost": {"spool_full": 12}}]}
    printed = lines(capsys, lost)
    assert "lost" in printed[0]
    assert printed[2].endswith("spool_full 12")


def test_a_narrow_terminal_tells_runs_of_one_agent_apart_and_what_the_kernel_dropped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "terminal_width", lambda: 80)
    printed = lines(capsys, {**BOOKS, "agents": [{**RUN, "agent": "db-master"}, {**RUN, **GONE, "agent": "db-master"}]})
    assert printed[0].split()[:4] == ["agent", "epoch", "captured", "row"]
    printed = lines(capsys, {**BOOKS, "agents": [{**RUN, "kernel_dropped": 7720}]})
    assert printed[0].endswith("kernel dropped")
    assert printed[1].startswith(NODE)


def test_elsewhere_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines(capsys, BOOKS)
    assert printed[1].startswith(NODE)
    assert {"flow", "only", "lost", "pending", "quarantined"} <= set(printed[0].split())


@pytest.mark.parametrize("width", [20, 40, 80])
def test_lines_are_broken_between_words(width: int) -> None:
    text = "INCOMPLETE: node-2 missing (stalled, last seen 2026-11-21T23:42:28.308Z); node-3 missing (gone)"
    broken = wrapped(text, width)
    assert " ".join(line.strip() for line in broken) == text
    assert all(len(line) <= width or " " not in line.strip() for line in broken)
    assert wrapped("", width) == [""]
    assert wrapped("      -> indented", 80) == ["      -> indented"]
