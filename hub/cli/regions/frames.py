"""Raw frames of several hubs as one capture, in order of time: those that were recorded, and those captured just now.

Each hub merges its agents, and what comes of several is merged again by what hubs do it with (`hub.pcap`). A hub that
is not there, or no longer, costs its own frames, and is named in the file and at its end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic_ns
from typing import Any

import protocol
from hub.cli.client import explain
from hub.cli.errors import CliError, HubLost
from hub.cli.regions import said
from hub.cli.regions.feed import Feed
from hub.cli.regions.hubs import none_of, short
from hub.cli.regions.parts import Reader
from hub.cli.regions.said import Outcome
from hub.pcap.merge import Merge
from hub.pcap.reorder import Reorder
from hub.query.window import format_ns, rfc3339_ns
from protocol import ending
from protocol.messages import Fetched
from protocol.parts import Part

WINDOW = 2_500_000_000
"""Nanoseconds for which live frames wait for another hub, which says once a second how far it is."""
TICK = 0.1
"""Seconds between two looks at what may go out."""
HELD = 16 << 20
"""Bytes of one hub's live frames that wait at most: where more come in that time, all go out as they are."""
_ALL, _NEVER = (1 << 63) - 1, -1 << 63
_FIRST = ("frames", "bytes")
"""Cuts that leave out what is later."""


class Frames:
    """An answer of several hubs. `asked` are the parameters of the question."""

    def __init__(self, feeds: Sequence[Feed], asked: Mapping[str, Any]) -> None:
        self._feeds = {feed.url: feed for feed in feeds}
        self._text = str(asked.get("filter") or "")
        self._readers = {feed.url: Reader() for feed in feeds}
        self._merge = Merge(
            self._feeds,
            f"nodetap {protocol.VERSION}",
            most_frames=int(asked.get("limit") or _ALL),
            most_bytes=int(asked.get("bytes") or _ALL),
            describe=lambda hub, place, _: self._readers[hub].interfaces[int(place)].block(hub),
        )
        self._told: dict[str, dict[str, Any]] = {}  # what each hub said last
        self._ended: dict[str, str] = {}  # hubs that came to their end, and what cut them off

    def _enter(self, url: str, data: bytes | None) -> None:
        """A piece of a hub's answer; None where nothing more comes."""
        if url in self._ended:
            return
        reader = self._readers[url]
        try:
            if data is None:
                raise self._feeds[url].trouble or HubLost("the hub's answer was cut off before its end")
            part, words = reader.feed(data)
            for each in words:
                self._heed(url, each)
        except CliError as error:
            self._give_up(url, error)
            return
        for text in reader.comments:
            self._merge.remark(url, text)
        reader.comments.clear()
        cut = self._ended.get(url)
        faces = [[str(place), each.linktype] for place, each in enumerate(reader.interfaces)]
        reached, last = reader.reached + (cut in _FIRST), int(cut is not None and cut not in _FIRST)
        self._merge.add(url, Fetched(0, 0, len(part), b"", faces, reached, last), part)
        if cut is None:
            self._added(url, part)

    def _added(self, url: str, part: Part) -> None:
        """Frames of a hub came, and more will."""

    def _end(self, url: str, cut: str) -> None:
        """Nothing more comes of a hub."""
        self._ended[url] = cut

    def _heed(self, url: str, words: Mapping[str, Any]) -> None:
        """What a hub says of its answer. Raises CliError where that is why it broke off."""
        ((kind, told),) = words.items()
        if kind == "nodetap.error":
            raise explain(told, self._text, url)
        if told.get("cut") == "hub_stopped":
            raise HubLost("the hub was stopped")
        self._told[url] = told
        if kind == "nodetap.completeness":
            self._end(url, told.get("cut") or "")

    def _give_up(self, url: str, error: CliError) -> None:
        self._feeds[url].trouble = error
        self._feeds[url].stop()
        self._end(url, "")
        reached = self._merge.reached(url)
        here = "" if reached is None else f"; its frames are here up to {format_ns(reached)}"
        self._merge.give_up(url, f"hub {url} is missing: {short(error, url)}{here}")

    def _outcomes(self) -> dict[str, Outcome]:
        """What each hub said last, or why it is missing. Raises CliError where all are."""
        if all(feed.trouble for feed in self._feeds.values()):
            raise none_of(list(self._feeds.values()))
        return {
            url: self._said_by(url) if feed.trouble is None else short(feed.trouble, url)
            for url, feed in self._feeds.items()
        }

    def _said_by(self, url: str) -> dict[str, Any]:
        return self._told.get(url) or {"complete": True, "agents": self._readers[url].agents}

    def _how(self, kind: str, complete: bool = True, **more: Any) -> bytes:
        """The block that says how it goes, or how it ended."""
        merge = self._merge
        figures = {"frames": merge.frames, "bytes": merge.bytes, "cut": merge.cut or None, "complete": complete}
        return ending.pack({kind: said.frames(self._outcomes(), **figures) | more})


class Recorded(Frames):
    """Frames that were recorded."""

    def chunks(self) -> Iterator[bytes]:
        """The file, and behind it how complete it is. Raises CliError where no hub answers to its end."""
        bodies = {url: feed.chunks() for url, feed in self._feeds.items()}
        merge = self._merge
        while not merge.done:
            behind = merge.hungry(0)
            if cut := next((self._ended[url] for url in behind if url in self._ended), ""):
                merge.cut = cut
                break
            for url in behind:
                self._enter(url, None if self._feeds[url].trouble else next(bodies[url], None))
            if data := merge.take():
                yield data
        yield merge.end() + self._how("nodetap.completeness", complete=not merge.cut)


class Captured(Frames):
    """Frames that are captured just now. `came` is set when something of a feed comes."""

    def __init__(self, feeds: Sequence[Feed], asked: Mapping[str, Any], came: threading.Event) -> None:
        super().__init__(feeds, asked)
        self._came = came
        self._order = Reorder(WINDOW)
        self._settled = monotonic_ns() + WINDOW
        self._news = True

    def begun(self) -> None:
        """Wait for the first hub that answers. Raises CliError where none does."""
        while not any(feed.head for feed in self._feeds.values()):
            self._hear()
            self._outcomes()

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
        yield merge.release(None) + merge.end()
        yield self._how("nodetap.completeness")

    @property
    def _over(self) -> bool:
        """Whether all hubs are at their end, or one at that of what is wanted."""
        return self._ended.keys() == self._feeds.keys() or any(cut in _FIRST for cut in self._ended.values())

    @property
    def _silent(self) -> list[str]:
        """Hubs that have not said yet how it goes there."""
        return [f"hub {url}" for url in self._feeds if url not in self._told and url not in self._ended]

    @property
    def _waiting(self) -> list[str]:
        """Those, and agents that the others wait for."""
        return sorted([*self._silent, *(name for told in self._told.values() for name in told.get("waiting", ()))])

    def _ripe(self) -> bytes:
        """The frames that may go out now."""
        now = monotonic_ns()
        if self._merge.held > HELD:
            return self._merge.release(None)
        if self._silent and now < self._settled:
            return b""
        return self._merge.release(*self._order.release(now))

    def _hear(self) -> None:
        """Enter what comes within a moment."""
        self._came.wait(TICK)
        self._came.clear()
        for url, feed in self._feeds.items():
            for data in feed.here():
                self._enter(url, data)

    def _added(self, url: str, part: Part) -> None:
        newest = int(part.time[-1]) if len(part) else None
        promised = self._told.get(url, {}).get("reached")
        reached = max(self._readers[url].reached, rfc3339_ns(promised) if promised else _NEVER)
        if reached > _NEVER:
            self._order.heard(url, reached, newest, monotonic_ns())

    def _heed(self, url: str, words: Mapping[str, Any]) -> None:
        self._news = True
        super()._heed(url, words)

    def _end(self, url: str, cut: str) -> None:
        self._news = True
        self._order.gone(url)
        super()._end(url, cut)
