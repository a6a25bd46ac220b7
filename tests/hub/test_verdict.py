"""What the hub thinks of an agent: one case for every word, and which comes first where several would do."""

from __future__ import annotations

from typing import Any

import pytest

from hub.ingest.verdict import CONTESTED, LAGGING, QUIET, RESTARTS, SILENT, VERDICTS, Known, judge

WELL = {
    "connected": True, "finished": False, "silent_for": 0.0, "state": "streaming", "level": "packets", "lag": 0.0,
    "packets_age": 0.0, "stall": "",
}  # fmt: skip

CASES: list[tuple[dict[str, Any], str, str | None]] = [
    ({}, "healthy", None),
    ({"packets_age": QUIET + 1}, "quiet", None),
    ({"lag": LAGGING + 1}, "lagging", "lag"),
    ({"restarts": RESTARTS}, "degraded", "capture"),
    ({"level": "flows"}, "degraded", "pressure"),
    ({"contested": 5.0}, "degraded", "name"),
    ({"contested": CONTESTED}, "healthy", None),
    ({"silent_for": SILENT + 1}, "stalled", "silence"),
    ({"stall": "loop"}, "stalled", "loop"),
    ({"connected": False}, "gone", None),
    ({"connected": False, "finished": True}, "left", "bye"),
]


@pytest.mark.parametrize(("facts", "verdict", "detector"), CASES)
def test_each_word(facts: dict[str, Any], verdict: str, detector: str | None) -> None:
    said, evidence = judge(Known(**{**WELL, **facts}))
    assert (said, evidence.get("detector")) == (verdict, detector)


def test_every_word_has_a_case() -> None:
    assert {verdict for _, verdict, _ in CASES} == set(VERDICTS)


def test_the_gravest_is_said() -> None:
    """All of it at once: then one thing after the other is mended."""
    facts: dict[str, Any] = {}
    for more, _, _ in CASES:
        facts |= more if more.get("contested") != CONTESTED else {}
    order = [judge(Known(**{**WELL, **facts}))[0]]
    for name, value in (
        ("connected", True), ("stall", ""), ("silent_for", 0.0), ("contested", None), ("level", "packets"),
        ("restarts", 0), ("lag", 0.0), ("packets_age", 0.0),
    ):  # fmt: skip
        facts[name] = value
        order.append(judge(Known(**{**WELL, **facts}))[0])
    assert order == ["left", *["stalled"] * 2, *["degraded"] * 3, "lagging", "quiet", "healthy"]
