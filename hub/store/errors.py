"""What can go wrong in the store, in one line that says what to do.

StoreError
 +- BadBatch        the store refused the rows of one batch; `entry` says which
 +- StoreBusy       every reader is taken
 +- QueryError      a query failed; `code` is ClickHouse's number, 0 where it gave none
     +- QueryTimeout   it took longer than it may
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub.store.books import Entry


class StoreError(Exception):
    """The store cannot do it; the text is one line."""


class BadBatch(StoreError):
    """The store refuses these rows whatever else it is given: quarantine `entry` and commit the others."""

    def __init__(self, entry: Entry, detail: str) -> None:
        message = entry.message
        super().__init__(f"batch {message.seq} of {message.agent} ({message.epoch:016x}) cannot be stored: {detail}")
        self.entry = entry
        self.detail = detail


class StoreBusy(StoreError):
    """Every reader is taken and none came free in time."""


class QueryError(StoreError):
    """A query failed. `code` is ClickHouse's error number, 0 where it gave none."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class QueryTimeout(QueryError):
    """A query took longer than it may."""
