"""Which hub comes next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.hubs import Hubs


def test_one_hub_is_asked_again_and_again() -> None:
    hubs = Hubs(["a"])
    assert hubs.failed(0.0, 0.0) == 0.0
    assert hubs.failed(1.0, 30.0) == 30.0
    assert hubs.url == "a"


def test_what_one_hub_asks_for_does_not_hold_for_the_other() -> None:
    hubs = Hubs(["a", "b"])
    assert hubs.failed(0.0, 30.0) == 0.0
    assert hubs.url == "b"
    assert hubs.failed(1.0, 0.0) == 0.0  # b may be asked at once, a in 29 s
    assert hubs.url == "b"
    assert hubs.failed(1.0, 60.0) == 29.0
    assert hubs.url == "a"


def test_the_hub_that_failed_least_comes_first() -> None:
    hubs = Hubs(["a", "b", "c"])
    asked = []
    for now in range(6):
        asked.append(hubs.url)
        hubs.failed(float(now), 0.0)
    assert asked == ["a", "b", "c", "a", "b", "c"]
    hubs.good()  # the present one is a
    hubs.failed(9.0, 0.0)
    assert hubs.url == "a"  # one failure against two: what it broke off was work, not a refusal


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans())))
def test_every_hub_gets_its_turn(count: int, steps: list[tuple[float, float, bool]]) -> None:
    hubs, now = Hubs([f"hub{n}" for n in range(count)]), 0.0
    for after, floor, good in steps:
        now += after
        if good:
            hubs.good()
        assert hubs.failed(now, floor) >= 0.0
    seen = set()
    for _ in range(sum(1 for _ in steps) * 2 + 2 * count):
        now += 200.0
        hubs.failed(now, 0.0)
        seen.add(hubs.url)
    assert len(seen) == count
