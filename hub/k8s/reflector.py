"""Lists and watches one kind of object, and knows up to when it knows. Pure: `now` is nanoseconds since 1970.

List, a page at a time; watch from the list's version on; resume where a watch ended; list again where the server has
forgotten that version (410) or said so in the stream (ERROR). After an error the wait doubles, with full jitter.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/, "Efficient detection of changes".
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hub.k8s.objects import SECOND, written

PAGE = 250
"""Objects of one page of a list: a page of pods is some megabytes while it is read."""
WATCH_SECONDS = (300, 600)
"""How long the server is asked to let a watch last; any time between, so that not all end at once."""
BACKOFF = (SECOND // 2, 30 * SECOND)
SHORT = SECOND
"""A watch that ends sooner and brought nothing counts as failed."""
PATIENCE = (SECOND // 4, 60 * SECOND)
"""Least and most silence of a watch for which it is still trusted to be current; servers send a bookmark a minute."""
SILENCE = (2 * SECOND, 90 * SECOND)
"""The same, after which it is replaced."""
BUSY = SECOND
"""A watch whose lines come more often is not trusted but tested: see `asked`."""
UNSURE = 2 * SECOND
"""How much older what a line tells may be than the line itself, unnoticed: times of objects are whole seconds."""
REPLAY = SECOND // 2
"""How long after its beginning a watch may be silent and still have old events to bring."""


@dataclass(frozen=True, slots=True)
class Event:
    """`put` or `remove` of an object, or `reset`: what was put since the last reset is all there is."""

    what: str
    item: Any = None
    missed: tuple[int, int] | None = None


class Gone(Exception):
    """The server has forgotten the version that we know: list again."""


class Refused(Exception):
    """The server answered with an error; `wait` is what it asks for, nanoseconds."""

    def __init__(self, status: int, message: str, wait: int = 0) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status, self.wait = status, wait


@dataclass(slots=True)
class Reflector:
    """One kind. The driver asks `request`, and tells what came of it."""

    rng: random.Random = field(default_factory=random.Random)
    version: str = ""
    more: str = ""
    """The next page of the list."""
    synced: bool = False
    """The whole list was there at least once."""
    listings: int = 0
    failures: int = 0
    opened: int | None = None
    """When the present watch began, None where there is none."""
    heard: int = 0
    """When the last line came, or a list was whole."""
    gap: int = 5 * SECOND
    """Mean time between lines, lately."""
    behind: int = 0
    """How old the last line was when it came."""
    lines: int = 0
    """Lines of the present watch."""
    snapshot: int = 0
    """When the list that is being read was asked for."""
    proven: int = 0
    """The newest time of which is known that everything before it has come."""
    pending: list[tuple[int, int]] = field(default_factory=list)
    """Versions that the server had, and when it was asked."""

    def request(self) -> dict[str, str]:
        """The query of the next request: a page of the list, or a watch."""
        if not self.version:
            return {"limit": str(PAGE)} | ({"continue": self.more} if self.more else {})
        seconds = self.rng.randint(*WATCH_SECONDS)
        return {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self.version,
                "timeoutSeconds": str(seconds)}  # fmt: skip

    @property
    def listing(self) -> bool:
        """Whether the next request is for a list."""
        return not self.version

    def page(self, answer: Mapping[str, Any], asked: int) -> Iterator[Event]:
        """A page of the list came, which was asked for at that time. All pages are of the moment of the first."""
        self.snapshot = self.snapshot if self.more else asked
        for item in answer.get("items") or ():
            yield Event("put", item)
        meta = answer["metadata"]
        self.more = str(meta.get("continue") or "")
        if self.more:
            return
        missed = (self.heard - self.behind - UNSURE, self.snapshot) if self.synced else None
        self.version, self.synced, self.failures = str(meta["resourceVersion"]), True, 0
        self.heard = self.proven = self.snapshot
        self.behind = 0
        self.listings += 1
        yield Event("reset", None, missed)

    def begun(self, now: int) -> None:
        """The watch is open."""
        self.opened, self.lines = now, 0

    def line(self, data: bytes, now: int) -> Event | None:
        """A line of the watch: what it says, None for a bookmark. Raises Gone, Refused, ValueError."""
        said = json.loads(data)
        what, item = said["type"], said["object"]
        if what == "ERROR":
            if item.get("code") == 410:
                raise Gone(str(item.get("message")))
            raise Refused(int(item.get("code") or 500), str(item.get("message")))
        self.version = str(item["metadata"]["resourceVersion"])
        self._sign(now, 0 if what == "BOOKMARK" else written(item) or 0)
        if what == "BOOKMARK":
            return None
        return Event("remove" if what == "DELETED" else "put", item)

    def _sign(self, now: int, at: int) -> None:
        self.gap += (now - max(self.heard, self.opened or 0) - self.gap) // 8
        self.heard, self.failures = now, 0
        self.lines += 1
        self.behind = max(0, now - at - UNSURE) if at else 0
        self._prove()

    def ended(self, now: int) -> int:
        """The watch is over, in good order or not; nanoseconds to wait until the next request."""
        opened, self.opened = self.opened, None
        if opened is not None and not self.lines:
            self.gap = max(self.gap, (now - opened) // 4)  # it is quieter than it was
            if now - opened < SHORT:
                return self._wait(0)
        return 0

    def failed(self, error: Exception, now: int) -> int:
        """A request failed; nanoseconds to wait until the next one."""
        self.ended(now)
        if isinstance(error, Gone) or (isinstance(error, Refused) and error.status == 410):
            again = self.listing  # a list that outlived its pages
            self.version = self.more = ""
            return self._wait(0) if again else 0
        if self.listing:
            self.more = ""
        return self._wait(error.wait if isinstance(error, Refused) else 0)

    def _wait(self, asked: int) -> int:
        self.failures += 1
        most = min(BACKOFF[1], BACKOFF[0] << min(self.failures - 1, 10))
        return asked + self.rng.randint(0, most)

    # -- up to when it knows ---------------------------------------------------------------------------------------

    def silent(self, now: int) -> bool:
        """Whether the watch has said nothing for so long that another one has to be tried."""
        if self.opened is None:
            return False
        return now - max(self.heard, self.opened) > _between(SILENCE, 16 * self.gap)

    @property
    def busy(self) -> bool:
        """Whether lines come so often that the server can be asked for a proof."""
        return self.gap < BUSY and self.version.isdecimal()

    def asked(self, at: int, version: str) -> None:
        """The server said that its version at that time, or later, was this: once a line of it or a later one has come,
        everything before `at` has. On a busy watch that is at once."""
        if version.isdecimal():
            self.pending = [*self.pending[-9:], (at, int(version))]
            self._prove()

    def _prove(self) -> None:
        if self.pending and self.version.isdecimal():
            here = int(self.version)
            self.proven = max([self.proven, *(at for at, version in self.pending if version <= here)])
            self.pending = [each for each in self.pending if each[1] > here]

    def reached(self, now: int) -> int:
        """Everything up to this time has come."""
        return self.proven if self.busy else self.trusted(now)

    def trusted(self, now: int) -> int:
        """The same by the look of it: now where the watch goes on as it did, else when it last spoke."""
        if not self.synced or not self.version:
            return self.heard
        behind = self.behind if now - self.heard < REPLAY else 0  # what was on its way has come
        if self.opened is None or now - self.opened < REPLAY:
            return self.heard - self.behind
        if now - max(self.heard, self.opened) <= _between(PATIENCE, 4 * self.gap):
            return now - behind
        return self.heard if self.lines else max(self.heard, self.opened)


def _between(bounds: tuple[int, int], value: int) -> int:
    return max(bounds[0], min(bounds[1], value))
