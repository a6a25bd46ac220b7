"""When live frames go out: in order where agents keep up, and soon whatever they do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.pcap.reorder import Reorder

T0 = 1_700_000_000_000_000_000
WINDOW = 1000


def test_frames_wait_for_who_is_behind() -> None:
    order = Reorder(WINDOW)
    order.heard("a", T0 + 100, T0 + 99, 100)
    order.heard("b", T0 + 40, None, 100)
    assert order.release(110) == (T0 + 40, set())
    order.heard("b", T0 + 300, None, 300)
    assert order.release(300) == (T0 + 100, set())
    order.gone("a")
    assert order.release(300) == (T0 + 300, set())
    order.gone("b")
    assert order.release(300) == (None, set())


def test_who_says_nothing_any_more_is_waited_for_a_while_only() -> None:
    order = Reorder(WINDOW)
    for now in range(0, 5000, 100):
        order.heard("a", T0 + now, T0 + now - 1, now)
        order.heard("c", T0 + now, None, now)
        if now < 500:
            order.heard("frozen", T0 + now, None, now)
    bound, _ = order.release(4900)
    assert bound == T0 + 4900


def test_who_has_a_wrong_clock_neither_waits_nor_is_waited_for() -> None:
    order, free = Reorder(WINDOW), set()
    for now in range(0, 5000, 100):
        for name, off in (("a", 0), ("b", -20), ("behind", -(10**9)), ("ahead", 10**9)):
            order.heard(name, T0 + now + off, T0 + now + off - 1, now)
        bound, overdue = order.release(now)
        assert bound == T0 + now - 20
        free |= overdue
    assert free == {"ahead"}


AGENTS = st.dictionaries(st.sampled_from("abcd"), st.integers(-(10**6), 10**6), min_size=1)


@given(AGENTS, st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3), st.booleans()), max_size=60))
def test_no_frame_waits_longer_than_the_window(offsets: dict[str, int], steps: list[tuple[int, int, bool]]) -> None:
    """Whatever the clocks and whoever falls silent: what came a window ago is out."""
    order, now, held = Reorder(WINDOW), 0, []
    names = sorted(offsets)
    for pause, which, with_frame in steps:
        now += pause
        name = names[which % len(names)]
        newest = T0 + now + offsets[name] if with_frame else None
        order.heard(name, T0 + now + offsets[name], newest, now)
        if newest is not None:
            held.append((name, newest, now))
        bound, overdue = order.release(now)
        assert bound is not None
        held = [each for each in held if each[1] >= bound and each[0] not in overdue]
        assert all(came > now - WINDOW for _, _, came in held)
