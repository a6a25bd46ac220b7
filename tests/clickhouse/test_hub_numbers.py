"""The numbers of commits over several hubs: none twice, and nothing is shown that one below may still precede."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.store.hubs import AHEAD_NS, EXPIRE, Numbers, Peers, hub_of, number_at

NOW = 1_700_000_000 * 10**9


def test_numbers_rise_and_name_their_hub() -> None:
    numbers = Numbers(7)
    numbers.start(NOW, 0)
    taken = [numbers.take(NOW - step * 10**9) for step in range(5)]  # a clock that is set back
    assert taken == sorted(set(taken))
    assert {hub_of(number) for number in taken} == {7}
    assert taken[0] > number_at(NOW + AHEAD_NS, 7) - 1


@given(st.lists(st.tuples(st.sampled_from(["take", "release", "floor"]), st.integers(-(10**10), 10**10))))
def test_no_number_below_a_floor_is_given_or_waits(steps: list[tuple[str, int]]) -> None:
    numbers, waiting, floor = Numbers(3), [], 0
    numbers.start(NOW, 0)
    for step, shift in steps:
        if step == "take":
            waiting.append(numbers.take(NOW + shift))
            numbers.hold(waiting[-1])
        elif step == "release" and waiting:
            numbers.release(waiting.pop(abs(shift) % len(waiting)))
        else:
            assert numbers.floor(NOW + shift) >= floor
            floor = numbers.floor(NOW + shift)
        assert all(number >= floor for number in waiting)


def test_a_hub_begins_above_what_the_others_may_show() -> None:
    ahead = number_at(NOW + 60 * 10**9, 9)  # another hub's clock is a minute fast
    numbers = Numbers(1)
    numbers.start(NOW, ahead)
    assert numbers.take(NOW) > ahead


def test_a_hub_that_says_nothing_new_expires_and_one_that_left_is_forgotten() -> None:
    peers = Peers()
    peers.saw({1: 10, 2: 10}, 0.0)
    peers.saw({1: 11, 2: 10}, EXPIRE + 1)
    assert peers.expired(EXPIRE + 2) == [2]
    peers.saw({1: 11}, EXPIRE + 3)
    assert list(peers.known) == [1]
