"""Deadlines follow what is measured, between their bounds; the clocks' distance is known to half a round trip."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.quality import CERTAIN, MOST, REASONS, Answers, Clock, Quality

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


def test_patience_doubles_with_each_link_given_up_until_an_answer_comes() -> None:
    quality = Quality()
    patience = []
    for _ in range(4):
        patience.append(quality.progress.patience(3.0))
        quality.gave_up("progress")
    assert patience == [3.0, 6.0, 9.0, 9.0]
    assert quality.ended == {"progress": 4}
    assert quality.ping.patience(3.0) == 3.0
    quality.progress.answer(0.1)
    assert quality.progress.patience(3.0) == 3.0


NS = 10**9
HOUR = 3600 * NS


@given(
    st.integers(0, 2**60), st.integers(-(10**12), 10**12),
    st.lists(st.tuples(st.floats(0.001, 5), st.floats(0, 1), st.floats(0, 3)), min_size=1, max_size=20),
)  # fmt: skip
def test_the_clocks_distance_is_known_to_half_a_round_trip(
    start: int, offset: int, answers: list[tuple[float, float, float]]
) -> None:
    """Round trips that differ, shared unevenly between the two ways, and a queue at the hub."""
    clock, steady = Clock(), 0.0
    for trip, share, queued in answers:
        steady += 10.0
        wall = start + int(steady * NS)
        clock.hear(wall + offset - int(trip * share * NS), wall, steady, trip + queued, trip)
        assert abs(clock.offset - offset / NS) <= max(each[0] for each in answers) / 2 + 1e-3


@given(st.integers(-HOUR, HOUR), st.integers(-HOUR, HOUR))
def test_a_clock_that_is_set_is_seen_at_once(ours: int, theirs: int) -> None:
    clock, start = Clock(), 2**60
    for second in range(5):
        clock.hear(start + second * NS, start + second * NS, float(second), 0.01, 0.01)
    clock.look(start + 5 * NS + ours, 5.0)
    assert abs(clock.offset + ours / NS) < 0.01
    clock.hear(start + 6 * NS + theirs, start + 6 * NS + ours, 6.0, 0.01, 0.01)
    assert abs(clock.offset - (theirs - ours) / NS) < 0.01 + CERTAIN + 0.02


def test_an_answer_that_was_read_late_tells_little() -> None:
    """The process was stopped between the question and the answer, and its usual round trip looks long for it."""
    clock, start = Clock(), 2**60
    clock.hear(start, start, 0.0, 0.002, 0.002)
    clock.hear(start + 10 * NS, start + 27 * NS, 27.0, 17.0, 0.002)
    clock.hear(start + 30 * NS, start + 30 * NS, 30.0, 0.002, 2.5)
    assert abs(clock.offset) < 0.002


def test_reasons_are_counted_and_bounded() -> None:
    quality = Quality()
    for n in range(3 * REASONS):
        quality.end(f"reason {n % (REASONS + 5)}")
    assert sum(quality.ended.values()) == 3 * REASONS
    assert len(quality.ended) == REASONS + 1
    assert quality.ended["other"] > 0
    assert quality.to_map()["ended"] == quality.ended
