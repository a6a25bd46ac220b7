"""Deadlines follow what is measured, between their bounds; the clocks' distance is known to half a round trip."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.quality import MOST, REASONS, Answers, Quality

SECONDS = st.floats(0, 1000)


@given(st.lists(SECONDS), st.floats(0.1, 100))
def test_patience_stays_between_its_bounds(answers: list[float], least: float) -> None:
    seen = Answers()
    for seconds in answers:
        seen.answer(seconds)
    assert least <= seen.patience(least) <= MOST * least
    assert seen.answered == len(answers)


def test_patience_follows_slow_answers_and_comes_back() -> None:
    seen = Answers()
    for _ in range(50):
        seen.answer(0.02)
    assert seen.patience(10.0) == 10.0
    for _ in range(50):
        seen.answer(8.0)  # a large batch over a thin link
    assert 16.0 <= seen.patience(10.0) < 18.0
    for _ in range(100):
        seen.answer(0.02)
    assert seen.patience(10.0) == 10.0


@given(st.integers(0, 2**62), st.integers(-(10**12), 10**12), st.floats(0, 5), st.floats(0, 1))
def test_the_clocks_distance_is_known_to_half_a_round_trip(now: int, offset: int, trip: float, share: float) -> None:
    quality, back = Quality(), int(trip * share * 1e9)  # the answer took `back` ns of the round trip
    quality.clock(now + offset, now + back, trip)
    assert abs(quality.clock_offset - offset / 1e9) <= trip / 2 + 1e-3


def test_reasons_are_counted_and_bounded() -> None:
    quality = Quality()
    for n in range(3 * REASONS):
        quality.end(f"reason {n % (REASONS + 5)}")
    assert sum(quality.ended.values()) == 3 * REASONS
    assert len(quality.ended) == REASONS + 1
    assert quality.ended["other"] > 0
    assert quality.to_map()["ended"] == quality.ended
