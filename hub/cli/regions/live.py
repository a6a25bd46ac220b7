"""Live frames of several hubs as one capture: put in order by a short wait, through restarts of any of them.

A hub that is lost is asked again, after pauses with full jitter, as long as the capture goes on. What its agents saw
meanwhile is missing: its next frame bears a mark, and the completeness says for how long it was away.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic_ns, time_ns
from typing import Any

from hub.cli.errors import CliError, HubLost
from hub.cli.follow import pause
from hub.cli.regions import said
from hub.cli.regions.feed import Feed
from hub.cli.regions.frames import FIRST, Frames
from hub.cli.regions.parts import Reader
from hub.pcap.merge import Gap
from hub.pcap.reorder import Reorder
from hub.query.window import rfc3339_ns
from protocol.parts import Part

WINDOW = 2_500_000_000
"""Nanoseconds for which live frames wait for another hub, which says once a second how far it is."""
TICK = 0.1
"""Seconds between two looks at what may go out."""
HELD = 16 << 20
"""Bytes of one hub's live frames that wait at most: where more come in that time, all go out as they are."""
GIVE_UP = 60.0
"""Seconds for which all hubs may be away at once."""
_SECOND = 1_000_000_000
_EVER, _NEVER = (1 << 63) - 1, -1 << 63

Again = Callable[[str, Mapping[str, Any], float], Feed]
"""Ask a hub, by its URL, once more: for this, and after so many seconds."""


class Captured(Frames):
    """Frames that are captured just now. `came` is set when something of a feed comes."""

    def __init__(self, feeds: Sequence[Feed], asked: Mapping[str, Any], came: threading.Event, again: Again) -> None:
        super().__init__(feeds, asked)
        self._asked, self._came, self._again = asked, came, again
        self._order = Reorder(WINDOW)
        self._news = True
        now, seconds = monotonic_ns(), int(asked.get("seconds") or 0)
        self._settled = now + WINDOW
        self._stop = now + seconds * _SECOND if seconds else _EVER
        self._heard = dict.fromkeys(self._feeds, now)
        self._reached = dict.fromkeys(self._feeds, time_ns())  # up to when frames are here, by the packets' time
        self._lost: dict[str, Feed] = {}  # hubs that are away, and the answers that are asked of them now
        self._failures: Counter[str] = Counter()
        self._absent: Counter[str] = Counter()  # nanoseconds for which those were away that are back
        self._before: dict[str, dict[str, Any]] = {}  # what those said until then

    def begun(self) -> None:
        """Wait for the first hub that answers. Raises CliError where none does."""
        while not any(feed.head for feed in self._feeds.values()):
            self._hear()
            self._anybody()

    def stop(self) -> None:
        """Take no more."""
        for feed in (*self._feeds.values(), *self._lost.values()):
            feed.stop()

    def chunks(self) -> Iterator[bytes]:
        """The file with words on how it goes, and behind it how complete it is. Raises CliError once no hub is left."""
        merge = self._merge
        yield merge.begin()
        while not (merge.cut or self._over):
            if data := self._ripe():
                yield data
            if self._news:
                self._news = False
                yield self._how("nodetap.progress", waiting=self._waiting)
            self._hear()
        for url in self._lost:
            super()._give_up(url, self._feeds[url].trouble or HubLost("it was lost"))
        yield merge.release(None) + merge.end()
        self._anybody()
        yield self._how("nodetap.completeness")

    @property
    def _over(self) -> bool:
        """Whether a hub is at the end of what is wanted, or all are, but for those that are away."""
        if self._feeds.keys() - self._ended.keys() - self._lost.keys():
            return any(cut in FIRST for cut in self._ended.values())
        patience = min(self._stop, max(self._heard.values()) + int(GIVE_UP * _SECOND))
        return not self._lost or any(self._ended.values()) or monotonic_ns() > patience

    @property
    def _waiting(self) -> list[str]:
        """Hubs that have not said yet how it goes there, and agents that the others wait for."""
        silent = self._feeds.keys() - self._told.keys() - self._ended.keys() - self._lost.keys()
        agents = (name for told in self._told.values() for name in told.get("waiting", ()))
        return sorted([*(f"hub {url}" for url in silent), *agents])

    def _ripe(self) -> bytes:
        """The frames that may go out now."""
        now = monotonic_ns()
        if self._merge.held > HELD:
            return self._merge.release(None)
        if self._waiting and now < self._settled:
            return b""
        return self._merge.release(*self._order.release(now))

    def _hear(self) -> None:
        """Enter what comes within a moment."""
        self._came.wait(TICK)
        self._came.clear()
        for url, feed in {**self._feeds, **self._lost}.items():
            for data in feed.here():
                if url in self._lost:
                    self._feeds[url], self._readers[url] = self._lost.pop(url), Reader()
                self._enter(url, data)
                if url in self._lost:
                    break  # nothing more counts of an answer that is given up

    def _added(self, url: str, part: Part) -> None:
        newest = int(part.time[-1]) if len(part) else None
        promised = self._told.get(url, {}).get("reached")
        reached = max(self._readers[url].reached, rfc3339_ns(promised) if promised else _NEVER)
        if reached > _NEVER:
            self._reached[url] = reached
            self._order.heard(url, reached, newest, monotonic_ns())

    def _heed(self, url: str, words: Mapping[str, Any]) -> None:
        self._news = True
        super()._heed(url, words)
        if self._failures.pop(url, 0):
            self._back(url)
        self._heard[url] = monotonic_ns()

    def _end(self, url: str, cut: str) -> None:
        self._news = True
        self._order.gone(url)
        super()._end(url, cut)

    # -- hubs that go and come back --------------------------------------------------------------------------------

    def _give_up(self, url: str, error: CliError) -> None:
        """A hub that is lost is asked again; one that refuses is not."""
        if not isinstance(error, HubLost):
            super()._give_up(url, error)
            return
        self._feeds[url].trouble = error
        self._feeds[url].stop()
        self._news = True
        self._order.gone(url)
        if url in self._told:
            self._before[url] = self._said_by(url)
            del self._told[url]
        self._failures[url] += 1
        wait = pause(self._failures[url])
        self._lost[url] = self._again(url, {**self._asked, "seconds": self._left(wait)}, wait)

    def _left(self, wait: float) -> int:
        """For how many seconds to ask a hub then; 0 without an end."""
        left = (self._stop - monotonic_ns()) / _SECOND - wait
        return 0 if self._stop == _EVER else max(1, round(left))

    def _back(self, url: str) -> None:
        """A hub that was away says how it goes: frames until now are missing of it."""
        now = monotonic_ns()
        self._settled = now + WINDOW
        self._absent[url] += now - self._heard[url]
        begun = rfc3339_ns(self._told[url]["since"])
        self._merge.miss(Gap(url, min(self._reached[url], begun), begun, None, "hub_away"))

    def _said_by(self, url: str) -> dict[str, Any]:
        told = super()._said_by(url)
        return said.after(self._before[url], told) if url in self._before else told

    def _away(self) -> Mapping[str, float]:
        now = monotonic_ns()
        missing = Counter({url: now - self._heard[url] for url in self._lost})
        return {url: round(spent / _SECOND, 3) for url, spent in (self._absent + missing).items()}
