"""The one writer: takes what is queued, checks it, commits it, says what became of it.

A thread of its own, because unpacking and inserting block. Batches are gathered for a moment so that inserts are
large; an echo goes through the same queue, so that its reply proves that the writer gets somewhere.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, time_ns
from typing import Any

from hub.store.engine import MAX_INSERT_ROWS
from hub.store.store import BadBatch, Entry, Store, StoreError
from protocol.codec import unpack_body
from protocol.errors import WrongBatch
from protocol.failpoints import VARIABLE, parse
from protocol.messages import Batch, Tombstone

GATHER = 0.1
"""Seconds for which a commit waits for more rows, from the first one queued."""
MAX_ROWS = MAX_INSERT_ROWS
"""Rows that are taken out of the queue at once: more would not be one insert."""
ENOUGH_ROWS = MAX_ROWS // 2
"""Rows that are committed without waiting."""
RETRY = 1.0
"""Seconds between two tries of a commit that the store could not do."""


@dataclass(slots=True)
class Work:
    """One thing in the queue: a batch or tombstone, or an echo to be answered once it is through."""

    message: Batch | Tombstone | None
    node: str = ""
    source: str = "live"
    session: int = 0
    size: int = 0
    echo: Callable[[], None] | None = None


@dataclass(slots=True)
class Outcome:
    """What became of the works of one commit."""

    stored: list[Entry] = field(default_factory=list)
    refused: list[tuple[Work, str, str]] = field(default_factory=list)  # (work, code, detail)
    works: list[Work] = field(default_factory=list)
    commit: int = 0
    seconds: float = 0.0
    dropped_columns: int = 0


class Writer(threading.Thread):
    """Commits what is queued until told to stop. `on_done` is called from this thread after each commit."""

    def __init__(self, store: Store, on_done: Callable[[Outcome], None], log: Any) -> None:
        super().__init__(name="writer", daemon=True)
        self._store, self._on_done, self._log = store, on_done, log
        self._queue: deque[Work] = deque()
        self._rows = 0
        self._news = threading.Condition()
        self._ending = False
        self._busy_since: float | None = None
        self._hang = "ingest_hang" in parse(os.environ.get(VARIABLE, ""))  # for tests: takes work, finishes none
        self.failing = ""
        """Why the store cannot be written to now; empty where it can."""

    def put(self, work: Work) -> None:
        """Queue one thing; never waits (the windows bound what may come)."""
        with self._news:
            if not self._queue and self._busy_since is None:
                self._busy_since = monotonic()
            self._queue.append(work)
            self._rows += work.message.rows if isinstance(work.message, Batch) else 0
            self._news.notify()

    def stop(self) -> None:
        """Commit what is queued and end."""
        with self._news:
            self._ending = True
            self._news.notify()

    @property
    def queued(self) -> int:
        """Things in the queue."""
        return len(self._queue)

    def stuck_for(self) -> float:
        """Seconds since the writer last gave a sign while there was something to do; a failed try is one."""
        since = self._busy_since
        return 0.0 if since is None else monotonic() - since

    def run(self) -> None:
        """Commit until told to stop and nothing is left."""
        while works := self._take():
            started = monotonic()
            outcome = self._commit(works)
            outcome.seconds = monotonic() - started
            with self._news:
                self._busy_since = monotonic() if self._queue else None
            self._on_done(outcome)

    def _take(self) -> list[Work]:
        with self._news:
            while not self._queue and not self._ending:
                self._news.wait()
            deadline = monotonic() + GATHER
            while self._rows < ENOUGH_ROWS and not self._ending and any(w.echo is None for w in self._queue):
                if not self._news.wait(deadline - monotonic()) and monotonic() >= deadline:
                    break
            return self._pop()

    def _pop(self) -> list[Work]:
        works: list[Work] = []
        rows = 0
        while self._queue:
            more = self._queue[0].message
            rows += more.rows if isinstance(more, Batch) else 0
            if works and rows > MAX_ROWS:
                break
            works.append(self._queue.popleft())
            self._rows -= more.rows if isinstance(more, Batch) else 0
        return works

    def _commit(self, works: Sequence[Work]) -> Outcome:
        while self._hang:
            threading.Event().wait(RETRY)
        outcome = Outcome(works=list(works))
        entries: list[tuple[Work, Entry]] = []
        for work in works:
            if work.message is None:
                continue
            try:
                entries.append((work, self._entry(work, outcome)))
            except WrongBatch as error:
                outcome.refused.append((work, error.code, error.detail))
            except Exception as error:
                self._log.exception("bug while unpacking a batch", agent=work.message.agent, seq=work.message.seq)
                outcome.refused.append((work, "poison", repr(error)))
        if entries:
            self._store_all(entries, outcome)
        return outcome

    def _entry(self, work: Work, outcome: Outcome) -> Entry:
        assert work.message is not None
        columns = None
        if isinstance(work.message, Batch):
            columns, unknown = unpack_body(work.message)
            outcome.dropped_columns += unknown
        return Entry(work.message, columns, work.node, work.source, work.session)

    def _store_all(self, entries: list[tuple[Work, Entry]], outcome: Outcome) -> None:
        """Commit; a batch that the store cannot take is set apart, a store that cannot take anything is asked again.

        Each time for half as much: an engine that runs out of space or memory may still have enough for less.
        """
        count = len(entries)
        while entries:
            try:
                outcome.commit = self._store.commit([entry for _, entry in entries[:count]], time_ns())
                outcome.stored.extend(entry for _, entry in entries[:count])
                entries = entries[count:]
                self._works_again()
            except BadBatch as error:
                bad = [work for work, entry in entries if entry is error.entry]
                outcome.refused.extend((work, "poison", str(error)) for work in bad)
                entries = [(work, entry) for work, entry in entries if entry is not error.entry]
            except StoreError as error:
                count = max(1, count // 2)
                if self._failed(str(error)):
                    return
                threading.Event().wait(RETRY)

    def _failed(self, reason: str) -> bool:
        """A try failed; said once per reason. Whether to give up, which is when the hub ends."""
        if reason != self.failing:
            self._log.error("cannot store; trying again", reason=reason, retry_s=RETRY)
        self.failing = reason
        with self._news:
            self._busy_since = monotonic()
            return self._ending

    def _works_again(self) -> None:
        if self.failing:
            self._log.info("can store again", was=self.failing)
            self.failing = ""
