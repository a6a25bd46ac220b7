"""A connection whose received bytes are on the budget from the moment they are read."""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame

from hub.ingest.budget import Budget


class Inlet(ServerConnection):
    """A connection of the agents' listener. `buffered` are bytes read and not taken by the session yet: whole frames,
    and the beginning of one; `held` adds those of its batches in the writer's queue, which the session keeps.

    `waits` while the budget has it not read. (`paused` is the base's word for a peer that does not read us.)"""

    def __init__(self, budget: Budget, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budget = budget
        self.buffered = 0
        self.outstanding = 0
        self.waits = False
        self._frames = 0
        self._over = False

    @property
    def held(self) -> int:
        """Bytes of the budget that this connection's agent takes."""
        return self.buffered + self.outstanding

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport, once."""
        super().connection_made(transport)
        self.recv_messages.resume = self._read_on

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        super().data_received(data)
        self._count()

    def process_event(self, event: Any) -> None:
        """Called per frame."""
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self._frames += len(event.data)
        super().process_event(event)

    def taken(self, size: int) -> None:
        """The session has taken a message of that many bytes."""
        self._frames -= size
        self._count()

    def _count(self) -> None:
        if not self._over:
            buffered = self._frames + len(self.protocol.reader.buffer)
            before, self.buffered = self.buffered, buffered
            self.budget.read(self, buffered - before)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport, once."""
        self._over = True
        self.budget.gone(self)
        super().connection_lost(exc)
        self.recv_messages.resume = _nothing  # no reference to itself: what was read goes with it

    def pause(self) -> None:
        """Read nothing more."""
        self.waits = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self.waits = False
        self._read_on()

    def _read_on(self) -> None:
        """Once the budget has room and the session has taken what is there."""
        if not self.waits and not self.recv_messages.paused:
            self.transport.resume_reading()


def _nothing() -> None:
    """What a connection that is gone does to read on."""
