"""List, watch, resume: what is asked next, and up to when everything is known. Time is an argument."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from cluster import SECOND, stamp

from hub.k8s.reflector import BACKOFF, PAGE, PATIENCE, REPLAY, SILENCE, Gone, Reflector, Refused

T = 1_790_000_000 * SECOND


def listed(version: str = "7", at: int = T) -> Reflector:
    made = Reflector(random.Random(1))
    assert [event.what for event in made.page({"metadata": {"resourceVersion": version}, "items": []}, at)] == ["reset"]
    return made


def line(version: int, what: str = "MODIFIED", at: int | None = None, **more: Any) -> bytes:
    fields = {"managedFields": [{"time": stamp(at)}]} if at else {}
    return json.dumps(
        {"type": what, "object": {"metadata": {"resourceVersion": str(version), **fields}, **more}}
    ).encode()


def busy(rate: int = 100) -> tuple[Reflector, int]:
    """A watch with so many lines a second, and when the last one came."""
    made, now = listed(), T
    made.begun(now)
    for number in range(3 * rate):
        now += SECOND // rate
        made.line(line(8 + number, at=now), now)
    return made, now


def test_a_list_in_pages_then_a_watch_from_its_version() -> None:
    made = Reflector()
    assert made.request() == {"limit": str(PAGE)}
    first = {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"n": 1}]}
    assert [(event.what, event.item) for event in made.page(first, T)] == [("put", {"n": 1})]
    assert made.request() == {"limit": str(PAGE), "continue": "more"}
    assert not made.synced
    last = {"metadata": {"resourceVersion": "7"}, "items": None}
    (reset,) = made.page(last, T + SECOND)
    assert (reset.what, reset.missed) == ("reset", None)
    asked = made.request()
    assert asked.pop("timeoutSeconds").isdecimal()
    assert asked == {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "7"}
    assert made.reached(T + SECOND) == T  # all pages are of the moment of the first


def test_events_and_bookmarks_move_the_version() -> None:
    made = listed()
    made.begun(T)
    for data, what in ((line(8, "ADDED"), "put"), (line(9), "put"), (line(10, "DELETED"), "remove")):
        event = made.line(data, T)
        assert event is not None
        assert event.what == what
    assert made.line(line(20, "BOOKMARK"), T) is None
    assert made.ended(T + 5 * SECOND) == 0
    assert made.request()["resourceVersion"] == "20"


@pytest.mark.parametrize("error", [Gone("old"), Refused(410, "old")])
def test_a_version_that_is_gone_is_listed_again_and_what_was_missed_is_told(error: Exception) -> None:
    made = listed()
    made.begun(T)
    made.line(line(8, at=T), T + SECOND)
    assert made.failed(error, T + 5 * SECOND) == 0
    assert made.listing
    (reset,) = made.page({"metadata": {"resourceVersion": "99"}, "items": []}, T + 6 * SECOND)
    assert reset.missed is not None
    assert reset.missed[0] <= T + SECOND
    assert reset.missed[1] == T + 6 * SECOND


def test_gone_may_come_in_the_stream() -> None:
    made = listed()
    made.begun(T)
    with pytest.raises(Gone):
        made.line(json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}).encode(), T)
    with pytest.raises(Refused, match="500"):
        made.line(json.dumps({"type": "ERROR", "object": {"code": 500, "message": "no"}}).encode(), T)


def test_pages_that_are_gone_begin_anew_but_not_at_once_for_ever() -> None:
    made = Reflector(random.Random(1))
    list(made.page({"metadata": {"resourceVersion": "7", "continue": "more"}, "items": []}, T))
    waits = [made.failed(Refused(410, "too old"), T) for _ in range(20)]
    assert made.request() == {"limit": str(PAGE)}
    assert max(waits) > BACKOFF[1] // 4


def test_waits_grow_are_jittered_and_end_with_the_first_line() -> None:
    made = listed()
    waits = [made.failed(Refused(500, "no"), T) for _ in range(200)]
    assert max(waits[:1]) <= BACKOFF[0]
    assert BACKOFF[1] // 2 < max(waits) <= BACKOFF[1]
    assert len(set(waits)) > 100
    assert made.failed(Refused(429, "slow down", 9 * SECOND), T) >= 9 * SECOND
    made.begun(T)
    made.line(line(8), T)
    assert made.failed(Refused(500, "no"), T) <= BACKOFF[0]


def test_a_watch_that_ends_at_once_is_not_asked_for_in_a_loop() -> None:
    made = listed()
    total = 0
    for _ in range(20):
        made.begun(T)
        total += made.ended(T + 1)
    assert total > 10 * SECOND


def test_a_quiet_watch_is_trusted_while_it_is_no_quieter_than_before() -> None:
    made = listed()
    made.begun(T)
    now = T
    for number in range(30):
        now += 5 * SECOND
        made.line(line(8 + number, at=now), now)
    assert not made.busy
    assert made.reached(now + 10 * SECOND) == now + 10 * SECOND
    assert made.reached(now + PATIENCE[1]) == now
    assert not made.silent(now + 60 * SECOND)
    assert made.silent(now + SILENCE[1] + 1)


def test_a_busy_watch_has_to_prove_what_it_knows() -> None:
    made, now = busy()
    assert made.busy
    assert made.reached(now) == T  # since the list nobody asked
    made.asked(now, made.version)
    assert made.reached(now + 1) == now
    made.asked(now + SECOND, str(int(made.version) + 2))
    made.line(line(int(made.version) + 1), now + SECOND)
    assert made.reached(now + SECOND) == now
    made.line(line(int(made.version) + 1), now + SECOND)
    assert made.reached(now + SECOND) == now + SECOND
    assert made.silent(now + SECOND + SILENCE[0] + 1)


def test_after_a_cut_old_events_may_still_come() -> None:
    made, now = busy(4)
    made.ended(now)
    made.begun(now + 10 * SECOND)
    assert made.trusted(now + 10 * SECOND + REPLAY - 1) <= now
    made.line(line(10**6, at=now + SECOND), now + 10 * SECOND + REPLAY)
    assert made.trusted(now + 10 * SECOND + REPLAY) < now + 10 * SECOND  # it told of nine seconds ago
    assert made.trusted(now + 10 * SECOND + 2 * REPLAY) == now + 10 * SECOND + 2 * REPLAY


def test_a_watch_that_becomes_quiet_is_not_replaced_all_the_time() -> None:
    made, now = busy()
    replaced = 0
    for _ in range(3600):
        now += SECOND
        if made.opened is None or made.silent(now):
            made.ended(now)
            made.begun(now)
            replaced += 1
    assert replaced < 100
