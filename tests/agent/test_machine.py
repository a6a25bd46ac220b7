"""The link's table: every pair is defined or forbidden, and every life can end."""

from __future__ import annotations

import itertools
import random

import pytest

from agent.uplink.backoff import SUPERSEDED_WAIT, Backoff
from agent.uplink.machine import FIRST, TABLE, Command, Event, State, step
from protocol.errors import LocalError


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_defined_or_raises(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert step(state, event) == TABLE[state, event]
    else:
        with pytest.raises(LocalError, match="not in the table"):
            step(state, event)


def test_stopped_is_the_end() -> None:
    assert not [pair for pair in TABLE if pair[0] is State.STOPPED]


@pytest.mark.parametrize("state", [s for s in State if s is not State.STOPPED])
def test_every_state_can_be_reached_and_left_for_good(state: State) -> None:
    def reach(start: State) -> set[State]:
        seen, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for (old, _), (new, _) in TABLE.items():
                if old is here and new not in seen:
                    seen.add(new)
                    todo.append(new)
        return seen

    assert state in reach(FIRST[0])
    assert State.STOPPED in reach(state)


def test_whoever_stops_exits_and_whoever_leaves_a_link_gets_another() -> None:
    for new, commands in TABLE.values():
        assert (Command.EXIT in commands) == (new is State.STOPPED)
        if new is State.BACKOFF and commands and Command.STOP_CAPTURE not in commands:
            assert {Command.BACK_OFF, Command.BACK_OFF_LONG} & set(commands)


def test_a_stall_is_never_closed_politely() -> None:
    for (_, event), (_, commands) in TABLE.items():
        if event is Event.STALLED:
            assert commands[0] is Command.ABORT
            assert Command.CLOSE not in commands


def test_backoff_is_full_jitter_below_its_cap() -> None:
    backoff = Backoff(base=1.0, cap=8.0, rng=random.Random(1))
    for n in range(50):
        assert 0.0 <= backoff.next() <= min(8.0, 2.0**n)
    backoff.acknowledged()
    assert backoff.next(at_once=True) == 0.0
    assert backoff.next(at_once=True) > 0.0  # no acknowledgement since: not at once again
    assert backoff.next(floor=5.0) >= 5.0
    assert SUPERSEDED_WAIT <= backoff.superseded() <= 2 * SUPERSEDED_WAIT
