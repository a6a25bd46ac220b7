"""What the doctor says of numbers: each check where all is well, and where it is not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hub.cli.doctor import folded, lines, summary
from hub.doctor.checks import AGENT, HERE, HUB
from hub.doctor.finding import BAD, OK, WARN, Finding, examine, span

NOW = 1_800_000_000.0
DAY = 86_400


def ends(days: float) -> str:
    """A certificate's end that is so many days away, as `ssl` prints it."""
    return time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(NOW + days * DAY))


LINK = {"round_trip": 0.001, "jitter": 0.0005, "pings": 100, "pongs": 100, "clock_offset": 0.01, "ended": {}}
RECORDER = {"bytes": 10, "bound": 100, "free": 200, "failing": "", "oldest": 1, "lost": {}}
FACTS: dict[str, Any] = {
    "software": "1.0", "hub_software": "1.0", "now": NOW, "uptime": 7200.0, "live": True, "verdict": "healthy",
    "evidence": {}, "level": "packets", "capture_restarts": 0, "error": "", "capabilities": ["net_raw"],
    "captured": 5000, "kernel_packets": 5000, "kernel_dropped": 0, "ring_pressed": False,
    "outbox": {"bytes": 0, "bound": 1 << 26, "oldest": 0.0}, "memory": {"resident": 1 << 27, "limit": 1 << 29},
    "interfaces": ["eth0"], "not_chosen": ["lo"], "link": LINK, "certificate_ends": ends(90),
    "spool": {"bytes": 0, "bound": 1 << 30, "free": 1 << 40, "failing": ""},
    "recorder": {"bytes": 0, "bound": 1 << 30, "free": 1 << 40, "failing": "", "oldest": 0, "lost": {"disk_slow": 0}},
}  # fmt: skip
HUB_FACTS: dict[str, Any] = {
    "software": "1.0", "ready": True, "reason": "", "writer": {"queued": 0, "stuck": 0.0},
    "disk": {"free": 50, "total": 100}, "retention": {"days": 7, "bytes": 1000, "stored": 900},
    "rollups": {"behind": 0.0},
    "ledger": {"balanced": True, "complete": True}, "agents": {"connected": 3}, "refused": [],
}  # fmt: skip


def turned(client: str, times: int) -> dict[str, Any]:
    reason = "the token is missing or wrong"
    return {"client": client, "code": "bad_token", "reason": reason, "times": times, "ago": 3.0}


HERE_FACTS: dict[str, Any] = {
    "url": "https://hub:8480", "round_trip": 0.02, "token": True, "software": "1.0", "hub_software": "1.0",
    "clock_offset": 0.0, "certificate_ends": ends(90), "now": NOW,
}  # fmt: skip


@pytest.mark.parametrize(("checks", "facts"), [(AGENT, FACTS), (HUB, HUB_FACTS), (HERE, HERE_FACTS)])
def test_where_all_is_well_every_check_says_so_and_asks_for_nothing(checks: Any, facts: dict[str, Any]) -> None:
    found = examine("x", facts, checks)
    assert [finding.check for finding in found] == [check.name for check in checks]
    assert {(finding.level, finding.todo) for finding in found} == {(OK, "")}


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"verdict": "stalled", "evidence": {"detector": "capture"}}, "verdict", WARN),
        ({"verdict": "quiet"}, "verdict", OK),
        ({"error": "eth0: gone"}, "capture", BAD),
        ({"capture_restarts": 1}, "capture", WARN),
        ({"capabilities": ["net_admin"]}, "rights", WARN),
        ({"interfaces": []}, "interfaces", BAD),
        ({"kernel_dropped": 1}, "drops", WARN),
        ({"kernel_dropped": 51}, "drops", BAD),
        ({"kernel_packets": 0}, "drops", OK),
        ({"ring_pressed": True}, "ring", WARN),
        ({"level": "flows"}, "level", WARN),
        ({"outbox": {"bytes": 60, "bound": 100, "oldest": 0.5}}, "outbox", WARN),
        ({"outbox": {"bytes": 95, "bound": 100, "oldest": 0.5}}, "outbox", BAD),
        ({"outbox": {"bytes": 1, "bound": 100, "oldest": 61.0}}, "outbox", BAD),
        ({"spool": {"bytes": 0, "bound": 100, "free": 200, "failing": "EROFS"}}, "spool", BAD),
        ({"spool": {"bytes": 10, "bound": 100, "free": 80, "failing": ""}}, "spool", WARN),
        ({"spool": {"bytes": 95, "bound": 100, "free": None, "failing": ""}}, "spool", WARN),
        ({"recorder": {**RECORDER, "failing": "EROFS"}}, "recorder", BAD),
        ({"recorder": {**RECORDER, "lost": {"disk_slow": 7}}}, "recorder", WARN),
        ({"recorder": {**RECORDER, "free": 3}}, "recorder", WARN),
        ({"memory": {"resident": 85, "limit": 100}}, "memory", WARN),
        ({"memory": {"resident": 96, "limit": 100}}, "memory", BAD),
        ({"memory": {"resident": 96, "limit": None}}, "memory", OK),
        ({"link": {**LINK, "pongs": 90}}, "link", WARN),
        ({"link": {**LINK, "pings": 5, "pongs": 2}}, "link", OK),
        ({"link": {**LINK, "ended": {"lost": 3}}}, "reconnects", WARN),
        ({"link": {**LINK, "ended": {"lost": 1}}, "uptime": 60.0}, "reconnects", OK),
        ({"link": {**LINK, "clock_offset": -2.1}}, "clock", WARN),
        ({"link": {**LINK, "clock_offset": 3600.0}}, "clock", BAD),
        ({"software": "0.9"}, "version", WARN),
        ({"certificate_ends": ends(10)}, "certificate", WARN),
        ({"certificate_ends": ends(2)}, "certificate", BAD),
        ({"certificate_ends": ends(-1)}, "certificate", BAD),
    ],
)
def test_what_is_wrong_with_an_agent(changes: dict[str, Any], check: str, level: str) -> None:
    one_is_wrong(examine("x", {**FACTS, **changes}, AGENT), check, level)


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"ready": False, "reason": "draining"}, "ready", BAD),
        ({"writer": {"queued": 5, "stuck": 11.0}}, "writer", WARN),
        ({"writer": {"queued": 5, "stuck": 61.0}}, "writer", BAD),
        ({"disk": {"free": 9, "total": 100}}, "disk", WARN),
        ({"disk": {"free": 2, "total": 100}}, "disk", BAD),
        ({"retention": {"days": 7, "bytes": 1000, "stored": 1300}}, "retention", WARN),
        ({"retention": {"days": 7, "bytes": None, "stored": 1300}}, "retention", OK),
        ({"rollups": {"behind": 3600.0}}, "rollups", OK),
        ({"rollups": {"behind": 10_000.0}}, "rollups", WARN),
        ({"rollups": {"behind": 100_000.0}}, "rollups", BAD),
        ({"ledger": {"balanced": False, "complete": True}}, "ledger", BAD),
        ({"ledger": {"balanced": True, "complete": False}}, "ledger", WARN),
        ({"agents": {"connected": 0}}, "agents", WARN),
        ({"refused": [turned("10.0.0.7", n) for n in range(5)]}, "refused", WARN),
    ],
)
def test_what_is_wrong_with_the_hub(changes: dict[str, Any], check: str, level: str) -> None:
    one_is_wrong(examine("x", {**HUB_FACTS, **changes}, HUB), check, level)


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"clock_offset": 2.5}, "clock", WARN),
        ({"clock_offset": -61.0}, "clock", BAD),
        ({"hub_software": "2.0"}, "version", WARN),
        ({"certificate_ends": ends(1)}, "certificate", BAD),
    ],
)
def test_what_is_wrong_here(changes: dict[str, Any], check: str, level: str) -> None:
    one_is_wrong(examine("x", {**HERE_FACTS, **changes}, HERE), check, level)


def one_is_wrong(found: list[Finding], check: str, level: str) -> None:
    """Only that check says something else, and what to do about it."""
    assert {finding.check for finding in found if finding.level != OK} == ({check} if level != OK else set())
    judged = next(finding for finding in found if finding.check == check)
    assert judged.level == level
    assert bool(judged.todo) == (level != OK)


def test_a_replay_has_no_interfaces_and_no_kernel() -> None:
    names = {finding.check for finding in examine("x", {**FACTS, "live": False, "certificate_ends": ""}, AGENT)}
    assert not names & {"rights", "interfaces", "drops", "ring", "certificate"}


FINDINGS = [
    Finding(OK, "n1", "clock", "fine"),
    Finding(BAD, "n1", "disk", "a\x1b[2J" + " word" * 40, "free some"),
    Finding(OK, "n1", "link", "fine"),
    Finding(WARN, "a-very-long-name-of-an-agent", "answer", "late", "ask again"),
]


def test_what_is_well_is_one_line_a_place() -> None:
    shown = list(folded(FINDINGS))
    assert [(f.where, f.check) for f in shown] == [
        ("n1", "disk"), ("n1", "2 fine"), ("a-very-long-name-of-an-agent", "answer")
    ]  # fmt: skip
    assert shown[1].what == "clock, link"


@pytest.mark.parametrize("width", [20, 80, 200, None])
def test_lines_fit_the_terminal_and_say_nothing_that_it_obeys(width: int | None) -> None:
    printed = [text for _, text in lines(list(folded(FINDINGS)), width)]
    assert not any("\x1b" in text for text in printed)
    assert sum(text.lstrip().startswith("-> ") for text in printed) == 2
    if width is None:
        assert len(printed) == 5
    elif width >= 80:
        assert max(map(len, printed)) <= width


def test_names_are_whole_where_there_is_room() -> None:
    name = "a-very-long-name-of-an-agent"
    shown = {width: any(name in text for _, text in lines(list(folded(FINDINGS)), width)) for width in (60, 100, None)}
    assert shown == {60: False, 100: True, None: True}


def test_the_last_line_counts_and_names_who_is_missing() -> None:
    answer = {"agents": {"n1": 0.1}, "missing": [{"agent": "n2", "reason": "stalled"}]}
    assert summary(FINDINGS, answer) == ("1 bad, 1 to look at, 2 fine; 1 of 2 agents answered; missing: n2 (stalled)")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0.4 ms"), (2.5, "2.5 s"), (-180.0, "3.0 min"), (5400.0, "90.0 min"), (7200.0, "2.0 h"),
        (12.4 * DAY, "12 days"),
    ],
)  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
