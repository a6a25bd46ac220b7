"""Which store a url means."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hub.store.address import is_server
from hub.store.books import Entry, Key, Line, News, Past, StoredEpoch
from hub.store.periods import Rolled
from hub.store.retention import Keep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class AnyStore(Protocol):
    """What a hub needs of its store, whichever it is. `hub.store.store.Store` says what each does and raises."""

    @property
    def directory(self) -> Path | None:
        """Where it is on this machine; None where it is elsewhere."""

    @property
    def id(self) -> str:
        """The store's name, known once it is open."""

    def open(self, now_ns: int) -> None:
        """Make what is missing, settle what a crash left, load the books."""

    def close(self) -> None:
        """Give everything back."""

    def epochs(self) -> list[StoredEpoch]:
        """Every run the store knows."""

    def past(self) -> Past:
        """The runs that are left out there, as their rows have expired."""

    def old(self, now_ns: int) -> int:
        """Runs to which nothing was added since then may be left out."""

    def recall(self, agent: str, epochs: Sequence[int]) -> list[StoredEpoch]:
        """Runs that were left out."""

    def committed(self) -> int:
        """The newest commit that may be shown."""

    def commit(self, entries: Sequence[Entry], now_ns: int) -> int:
        """Store what is not held yet."""

    def takeover(self, agent: str, now_ns: int) -> list[Line]:
        """What other hubs stored of an agent that comes here now."""

    def listen(self, listener: Callable[[News], object]) -> None:
        """Be told of the other hubs."""

    def tell(self, agents: list[dict[str, Any]]) -> None:
        """Who is connected here, for the other hubs to know."""

    def reader(self) -> AbstractContextManager[Any]:
        """A reader for a `with` block."""

    def rolled(self, table: str) -> Rolled:
        """From what questions of a table can be answered."""

    def roll(self, now_ns: int) -> int:
        """Roll up the periods of ingest that are closed."""

    def behind(self, now_ns: int) -> int:
        """Since how long what is closed waits to be rolled up, ns."""

    def retain(self, now_ns: int) -> list[str]:
        """Drop what is too old or too much."""

    def dropped(self) -> dict[Key, int]:
        """Packet rows of each run that retention dropped."""

    def statistics(self) -> dict[str, dict[str, int]]:
        """Per table: rows, bytes on disk, parts."""


def store_of(url: str, keep: Keep | None = None, *, api: str = "") -> AnyStore:
    """The store a url names, not open yet. Raises StoreError."""
    if is_server(url):
        from hub.store.cluster import ClusterStore

        return ClusterStore(url, keep, api=api)
    from hub.store.store import Store

    return Store(url, keep)
