"""One budget for everything that agents make the hub hold, and who has to wait when it is used up.

Bytes count from the moment they are read from a socket until the writer is done with them. Windows are shares of the
budget: a floor for everyone, the rest for those who send now. An agent learns of a smaller window late, and one batch
may always be sent; so the budget is kept where bytes come in: while it is used up, sockets of agents that hold more
than the floor are not read, and TCP makes the agents wait. Their acknowledgements go on.

At most BUDGET_BYTES, for each connection the floor and what one read of its socket gives, and one message are held,
whatever agents send. Connections that ended may have left that much in the queue, too: then no new one is taken.
"""

from __future__ import annotations

from typing import Protocol

from protocol.limits import MAX_MESSAGE

BUDGET_BYTES = 128 << 20
FLOOR_BYTES = 64 << 10
"""What every agent may have on its way, however many there are: MAX_CONNECTIONS times this is within the budget."""
READ_BYTES = 256 << 10
"""What asyncio reads of a socket at once."""
MAX_WINDOW_BYTES = 64 << 20
BUDGET_BATCHES = 16_384
"""Batches that may be on their way, all agents together: each costs OVERHEAD beside its bytes."""
FLOOR_BATCHES = 4
MAX_WINDOW_BATCHES = 64
OVERHEAD = 4 << 10
"""Bytes of memory that a queued batch takes beside its body: its objects and its ledger, measured."""


class Held(Protocol):
    """One connection: what its agent holds of the budget, and how it is read."""

    @property
    def held(self) -> int:
        """Bytes of the budget."""

    @property
    def buffered(self) -> int:
        """Those of them that are not in the writer's queue."""

    def pause(self) -> None:
        """Read nothing more."""

    def resume(self) -> None:
        """Read on."""


class Budget:
    """What is held by all connections together, and which of them are not read. Belongs to the hub's loop."""

    def __init__(self) -> None:
        self.bytes = 0
        self.queued = 0  # of them, in the writer's queue
        self.sessions = 0
        self.active = 0  # sessions that send now
        self._paused: dict[Held, None] = {}
        self._favourite: Held | None = None

    @property
    def full(self) -> bool:
        """Whether one more connection would be too much."""
        return self.bytes >= BUDGET_BYTES + self.sessions * (FLOOR_BYTES + READ_BYTES) + MAX_MESSAGE

    def window(self) -> tuple[int, int]:
        """Batches and bytes that an agent may have outstanding if it sends now."""
        active = max(1, self.active)
        size = FLOOR_BYTES + max(0, BUDGET_BYTES - self.sessions * FLOOR_BYTES) // active
        batches = FLOOR_BATCHES + max(0, BUDGET_BATCHES - self.sessions * FLOOR_BATCHES) // active
        return min(MAX_WINDOW_BATCHES, batches), min(MAX_WINDOW_BYTES, size)

    def read(self, connection: Held, more: int) -> None:
        """A connection has read (or, below 0, handed on) so many bytes."""
        self.bytes += more
        if self._over(connection) and connection is not self._favourite:
            connection.pause()
            if connection not in self._paused:
                self._paused[connection] = None
                self.relieve()

    def queue(self, more: int) -> None:
        """So many bytes came into the writer's queue, or, below 0, are out of it."""
        self.bytes += more
        self.queued += more

    def gone(self, connection: Held) -> None:
        """A connection ended; what it had not handed on is free."""
        self.bytes -= connection.buffered
        self._paused.pop(connection, None)
        if self._favourite is connection:
            self._favourite = None
        self.relieve()

    def _over(self, connection: Held) -> bool:
        return self.bytes >= BUDGET_BYTES and connection.held >= FLOOR_BYTES

    def relieve(self) -> None:
        """Read those again who may be. Where all wait and the writer has nothing, one gets its message to an end."""
        for connection in [c for c in self._paused if not self._over(c)]:
            del self._paused[connection]
            connection.resume()
        if self._favourite is not None and self._favourite.buffered == 0:
            self._favourite = None
        if self._paused and not self.queued and self._favourite is None:
            self._favourite = max(self._paused, key=lambda c: c.buffered)
            del self._paused[self._favourite]
            self._favourite.resume()
