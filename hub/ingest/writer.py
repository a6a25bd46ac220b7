"""The one writer: takes what is queued, checks it, commits it, says what became of it.

A thread of its own, because unpacking and inserting block. Batches are gathered for a moment so that inserts are
large, and taken from the agents in turn; an echo goes through the same queue, so that its reply proves that the writer
gets somewhere. What one commit takes is bounded by the memory that its columns need, and by the time that it takes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, time_ns
from typing import Any, Protocol

from hub import failpoints
from hub.ingest.lanes import Lanes
from hub.ingest.pace import Pace
from hub.store.books import Entry
from hub.store.errors import BadBatch, StoreError
from hub.store.opening import AnyStore
from protocol.codec import unpack_body
from protocol.columns import Columns
from protocol.errors import WrongBatch
from protocol.messages import Batch, Tombstone

GATHER = 0.1
"""Seconds for which a commit waits for more rows, from the first one queued, where little comes."""
LONG_GATHER = 1.0
CROWD, FLOOD = 50, 25_000
"""Agents in a commit, and rows a second, beyond which the next one waits longer, up to LONG_GATHER: what is stored in
small pieces is merged more often, and a commit has a price of its own."""
MAX_COST = 96 << 20
"""Bytes of columns that one commit takes: they are in memory as arrays, as a Native block, and in the engine."""
LEAST_COST = 1 << 20
ENOUGH_COST = MAX_COST // 2
"""Bytes of columns that are committed without waiting."""
MAX_WORKS = 1024
"""Things that one commit takes: the loop settles them in one go."""
ROW_COST = 400
"""Bytes of a row's columns that are not sent, because they are empty."""
SENT_COST = 2
"""What a byte that is sent counts: long strings are in memory once more than other columns while rows are sorted."""
RETRY = 1.0
"""Seconds between two tries of a commit that the store could not do."""


class Naming(Protocol):
    """What gives rows names, such as `hub.k8s.names.Names`."""

    def wait(self, newest: int) -> None:
        """Until the rows' times are known, the newest being so many nanoseconds since 1970; bounded."""

    def of(self, kind: str, columns: Columns, behind: Mapping[str, Any]) -> Columns:
        """Further columns for the rows of a table; `behind`: interface -> the address behind it."""


@dataclass(slots=True)
class Work:
    """One thing in the queue: a batch or tombstone, or an echo to be answered once it is through."""

    message: Batch | Tombstone | None
    node: str = ""
    source: str = "live"
    session: int = 0
    size: int = 0
    echo: Callable[[], None] | None = None
    agent: str = ""

    @property
    def cost(self) -> int:
        """Bytes of its columns."""
        message = self.message
        if isinstance(message, Batch):
            return SENT_COST * message.raw_size + ROW_COST * message.rows
        return ROW_COST if message is not None else 0


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

    def __init__(
        self, store: AnyStore, on_done: Callable[[Outcome], None], log: Any, names: Naming | None = None
    ) -> None:
        super().__init__(name="writer", daemon=True)
        self._store, self._on_done, self._log = store, on_done, log
        self._names = names
        self._queue: Lanes[Work] = Lanes(failpoints.throttled())
        self._pace = Pace(MAX_COST, LEAST_COST)
        self._patience = GATHER
        self._news = threading.Condition()
        self._ending = False
        self._busy_since: float | None = None
        self.failing = ""
        """Why the store cannot be written to now; empty where it can."""

    def put(self, work: Work) -> None:
        """Queue one thing; never waits (the windows bound what may come)."""
        with self._news:
            if not self._queue and self._busy_since is None:
                self._busy_since = monotonic()
            self._queue.put(work.agent, work, work.cost)
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
        started = monotonic()
        while works := self._take():
            self._wait_for_names(works)
            before, started = started, monotonic()
            self._patience = _patience(works, started - before)
            outcome = self._commit(works)
            outcome.seconds = monotonic() - started
            self._pace.done(sum(work.cost for work in works), outcome.seconds)
            with self._news:
                self._busy_since = monotonic() if self._queue else None
            self._on_done(outcome)
            del works, outcome  # columns go before the next are made

    def _take(self) -> list[Work]:
        with self._news:
            while (wait := self._queue.wait(self._now())) != 0.0 and not (self._ending and wait is None):
                self._busy_since = None
                self._news.wait(wait)
            self._busy_since = self._busy_since or monotonic()
            self._gather()
            return self._queue.take(self._pace.limit, MAX_WORKS, self._now(), MAX_COST)

    def _now(self) -> float:
        return math.inf if self._ending else monotonic()  # at the end nothing is held back

    def _gather(self) -> None:
        """Wait a moment for more, unless there is enough, or nobody who must wait for it but echoes."""
        deadline = monotonic() + self._patience
        enough = min(ENOUGH_COST, self._pace.limit)
        while 0 < self._queue.cost < enough and not self._ending and len(self._queue) < MAX_WORKS:
            if not self._news.wait(max(0.0, deadline - monotonic())) and monotonic() >= deadline:
                break

    def _wait_for_names(self, works: Sequence[Work]) -> None:
        times = [work.message.last for work in works if isinstance(work.message, Batch)]
        if self._names is not None and times:
            self._names.wait(max(times))

    def _commit(self, works: Sequence[Work]) -> Outcome:
        failpoints.hang()
        outcome = Outcome(works=list(works))
        entries: list[tuple[Work, Entry]] = []
        for work in works:
            if work.message is None:
                continue
            try:
                entries.append((work, self._entry(work, outcome)))
            except MemoryError:  # it ends: the agent still has the batch
                continue
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
            columns, unknown = self._unpacked(work.message)
            outcome.dropped_columns += unknown
            if self._names is not None:
                columns |= self._names.of(work.message.kind, columns, work.message.behind)
        return Entry(work.message, columns, work.node, work.source, work.session, sound=True)

    def _unpacked(self, batch: Batch) -> tuple[Columns, int]:
        """Its columns, once there is memory for them: that there is none is not the batch's fault.

        Raises WrongBatch, and MemoryError where the hub ends meanwhile.
        """
        while True:
            try:
                failpoints.no_memory()
                return unpack_body(batch)
            except MemoryError:
                if self._failed("out of memory while unpacking a batch"):
                    raise
                threading.Event().wait(RETRY)

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


def _patience(works: Sequence[Work], seconds: float) -> float:
    """How long to wait for more, where these came within so many seconds."""
    rows = sum(work.message.rows for work in works if isinstance(work.message, Batch))
    agents = len({work.agent for work in works})
    return min(LONG_GATHER, GATHER * max(1.0, agents / CROWD, rows / max(seconds, GATHER) / FLOOD))
