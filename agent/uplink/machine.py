"""The life of the link as one table.

Only the table, the words in it and the function that looks things up live here: no clock, no sockets, no counters.

An agent is CONNECTING (a handshake is under way), STREAMING (the hub has welcomed it), DRAINING (it was told to stop,
and what it owes is being acknowledged), in BACKOFF (no connection, a wait before the next), or STOPPED for good.
Whether it was told to stop survives a lost link outside the table: the driver says STOP again after each WELCOMED.

`TABLE[state, event]` is the next state and the commands that the driver performs, in order. A pair that is not in the
table cannot happen; if it does, that is a bug, and `step` raises.
"""

from __future__ import annotations

from enum import StrEnum

from protocol.errors import LocalError


class State(StrEnum):
    """Where the link is."""

    CONNECTING = "connecting"
    STREAMING = "streaming"
    DRAINING = "draining"
    BACKOFF = "backoff"
    STOPPED = "stopped"


class Event(StrEnum):
    """What happens to it."""

    WELCOMED = "welcomed"  # the hub accepted us
    LOST = "lost"  # the connection, or the attempt at one, ended
    REFUSED = "refused"  # the hub said no, by code
    SUPERSEDED = "superseded"  # a newer connection of our name took over
    STALLED = "stalled"  # a detector of the watchdog spoke
    WAKE = "wake"  # the backoff is over
    STOP = "stop"  # SIGTERM, or a file's end
    DRAINED = "drained"  # told to stop, and nothing is owed any more
    DEADLINE = "deadline"  # told to stop, and the time for it is over
    KILL = "kill"  # told to stop a second time


class Command(StrEnum):
    """What the driver must do."""

    CONNECT = "connect"
    SEND = "send"  # start the tasks of a welcomed connection
    ABORT = "abort"  # transport.abort(): never an awaited close, which waits in the very drain that hangs
    CLOSE = "close"  # close 1000, everything is acknowledged
    FREE = "free"  # capture buffers to zero, memory back to the system
    BACK_OFF = "back_off"  # wait, full jitter, then WAKE
    BACK_OFF_LONG = "back_off_long"  # the same name is used elsewhere: wait 30 s and jitter
    HURRY = "hurry"  # cut a backoff short
    STOP_CAPTURE = "stop_capture"
    EXIT = "exit"


S, E, C = State, Event, Command

TABLE: dict[tuple[State, Event], tuple[State, tuple[Command, ...]]] = {
    (S.CONNECTING, E.WELCOMED): (S.STREAMING, (C.SEND,)),
    (S.CONNECTING, E.LOST): (S.BACKOFF, (C.BACK_OFF,)),
    (S.CONNECTING, E.REFUSED): (S.BACKOFF, (C.BACK_OFF,)),
    (S.CONNECTING, E.SUPERSEDED): (S.BACKOFF, (C.BACK_OFF_LONG,)),
    (S.CONNECTING, E.STALLED): (S.BACKOFF, (C.ABORT, C.BACK_OFF)),
    (S.CONNECTING, E.STOP): (S.CONNECTING, (C.STOP_CAPTURE,)),
    (S.CONNECTING, E.DEADLINE): (S.STOPPED, (C.ABORT, C.EXIT)),
    (S.CONNECTING, E.KILL): (S.STOPPED, (C.ABORT, C.EXIT)),
    (S.STREAMING, E.LOST): (S.BACKOFF, (C.FREE, C.BACK_OFF)),
    (S.STREAMING, E.REFUSED): (S.BACKOFF, (C.FREE, C.BACK_OFF)),
    (S.STREAMING, E.SUPERSEDED): (S.BACKOFF, (C.FREE, C.BACK_OFF_LONG)),
    (S.STREAMING, E.STALLED): (S.BACKOFF, (C.ABORT, C.FREE, C.BACK_OFF)),
    (S.STREAMING, E.STOP): (S.DRAINING, (C.STOP_CAPTURE,)),
    (S.STREAMING, E.KILL): (S.STOPPED, (C.ABORT, C.EXIT)),
    (S.DRAINING, E.DRAINED): (S.STOPPED, (C.CLOSE, C.EXIT)),
    (S.DRAINING, E.LOST): (S.BACKOFF, (C.FREE, C.BACK_OFF)),
    (S.DRAINING, E.REFUSED): (S.BACKOFF, (C.FREE, C.BACK_OFF)),
    (S.DRAINING, E.SUPERSEDED): (S.STOPPED, (C.ABORT, C.EXIT)),
    (S.DRAINING, E.STALLED): (S.BACKOFF, (C.ABORT, C.FREE, C.BACK_OFF)),
    (S.DRAINING, E.DEADLINE): (S.STOPPED, (C.ABORT, C.EXIT)),
    (S.DRAINING, E.KILL): (S.STOPPED, (C.ABORT, C.EXIT)),
    (S.BACKOFF, E.WAKE): (S.CONNECTING, (C.CONNECT,)),
    (S.BACKOFF, E.STOP): (S.BACKOFF, (C.STOP_CAPTURE, C.HURRY)),
    (S.BACKOFF, E.DEADLINE): (S.STOPPED, (C.EXIT,)),
    (S.BACKOFF, E.KILL): (S.STOPPED, (C.EXIT,)),
}

FIRST = (State.CONNECTING, (Command.CONNECT,))
"""How a life begins."""


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """The next state and the commands. Raises LocalError for a pair that cannot happen."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise LocalError(f"{event} while {state}: not in the table") from None
