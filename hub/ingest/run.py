"""One epoch of one agent as the hub knows it, and its books as the ledger tells them.

Pure.
"""

from __future__ import annotations

from typing import Any

from hub.store.books import Entry, Line, StoredEpoch, line_of
from protocol.delivery import Receiver
from protocol.filter.times import rfc3339_ms
from protocol.ledger import Books, settle
from protocol.ranges import Ranges


class Run:
    """One epoch of one agent: what is stored of it (`stored`), and what is on its way there (`receiver`)."""

    __slots__ = ("_books", "receiver", "stored")

    def __init__(self, stored: StoredEpoch) -> None:
        self.stored = stored
        self.receiver = Receiver(stored.seqs)
        self._books: Books | None = None

    def add(self, entry: Entry, commit: int, now_ns: int) -> None:
        """Count a batch or tombstone that is durable now."""
        self.learn(line_of(entry, commit, now_ns))

    def learn(self, line: Line) -> None:
        """Count a line that is durable, once, whichever hub stored it."""
        if line.seq not in self.stored.seqs:
            self.stored.add(line)
            self.receiver.commit([line.seq])
            self._books = None

    @property
    def books(self) -> Books:
        """Its balance, worked out once: there may be very many runs."""
        if self._books is None:
            self._books = settle(self.stored.known, self.stored.held)
        return self._books

    def balances(self, rows: int) -> bool:
        """Whether its books balance, `rows` of its packets being there."""
        return self.books.balanced and rows <= self.stored.held.rows

    def name(self, unreported: bool) -> dict[str, Any]:
        """Which run it is, and since when nothing is known of it where it ended without its last word."""
        stored = self.stored
        return {
            "agent": stored.agent,
            "epoch": f"{stored.epoch:016x}",
            "node": stored.node,
            "source": stored.source,
            "unreported_since": rfc3339_ms(stored.last_stored) if unreported else None,
        }

    def told(self, rows: int, unreported: bool) -> dict[str, Any]:
        """Its books as the ledger tells them, `rows` of its packets being there."""
        stored = self.stored
        return {
            **self.name(unreported),
            **self.books.to_map(),
            "balanced": self.balances(rows),
            "complete": not unreported and stored.whole,
            "rows_present": rows,
            "rows_expired": stored.held.rows - rows,
            "final": stored.final,
            "gaps": _gaps(stored.seqs),
            "first_stored": rfc3339_ms(stored.first_stored) if stored.first_stored else None,
        }


def _gaps(held: Ranges) -> list[list[int]]:
    """Batch numbers below the newest that are not held, as ranges."""
    last = 0
    gaps = []
    for first, end in held:
        if first > last + 1:
            gaps.append([last + 1, first - 1])
        last = end
    return gaps
