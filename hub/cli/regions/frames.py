"""Raw frames of several hubs as one capture, in order of time: what all have in common, and those that were recorded.

Each hub merges its agents, and what comes of several is merged again by what hubs do it with (`hub.pcap`). A hub that
is not there, or no longer, costs its own frames, and is named in the file and at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from hub.query.window import format_ns
from protocol import ending
from protocol.messages import Fetched
from protocol.parts import Part

_ALL = (1 << 63) - 1
FIRST = ("frames", "bytes")
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
            describe=lambda hub, key, _: self._readers[hub].interface(key).block(hub),
        )
        self._told: dict[str, dict[str, Any]] = {}  # what each hub said last
        self._ended: dict[str, str] = {}  # hubs that came to their end, and what cut them off

    def _enter(self, url: str, data: bytes | None) -> None:
        """A piece of a hub's answer; None where nothing more comes."""
        if url in self._ended:
            return
        try:
            if data is None:
                raise self._feeds[url].trouble or HubLost("the hub's answer was cut off before its end")
            part, words = self._readers[url].feed(data)
        except CliError as error:
            self._give_up(url, error)
            return
        trouble = self._heeded(url, words)
        self._add(url, part)  # these came before whatever is wrong
        if trouble is not None:
            self._give_up(url, trouble)

    def _heeded(self, url: str, words: Iterable[Mapping[str, Any]]) -> CliError | None:
        """Enter what a hub says; why it broke off, where it does."""
        try:
            for each in words:
                self._heed(url, each)
        except CliError as error:
            return error
        return None

    def _add(self, url: str, part: Part) -> None:
        reader, cut = self._readers[url], self._ended.get(url)
        for text in reader.comments:
            self._merge.remark(url, text)
        reader.comments.clear()
        faces = [[each.key, each.linktype] for each in reader.interfaces]
        reached, last = reader.reached + (cut in FIRST), int(cut is not None and cut not in FIRST)
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

    def _anybody(self) -> None:
        """Raises CliError where all hubs are missing."""
        if all(feed.trouble for feed in self._feeds.values()):
            raise none_of(list(self._feeds.values()))

    def _outcomes(self) -> dict[str, Outcome]:
        """What each hub said last, or why it is missing."""
        return {
            url: self._said_by(url) if feed.trouble is None else short(feed.trouble, url)
            for url, feed in self._feeds.items()
        }

    def _said_by(self, url: str) -> dict[str, Any]:
        return self._told.get(url) or {"complete": True, "agents": self._readers[url].agents}

    def _away(self) -> Mapping[str, float]:
        """For how many seconds hubs were not there."""
        return {}

    def _how(self, kind: str, complete: bool = True, **more: Any) -> bytes:
        """The block that says how it goes, or how it ended."""
        merge = self._merge
        figures = {"frames": merge.frames, "bytes": merge.bytes, "cut": merge.cut or None, "complete": complete}
        return ending.pack({kind: said.frames(self._outcomes(), self._away(), **figures) | more})


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
        self._anybody()
        yield merge.end() + self._how("nodetap.completeness", complete=not merge.cut)
