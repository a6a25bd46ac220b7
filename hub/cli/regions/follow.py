"""Rows of several hubs as they are stored: each followed by a thread of its own, through restarts, with its own cursor.

Rows of one hub keep their order; between hubs it is that of arrival. A row's cursor holds the place at each hub, joined
by SEPARATOR in the order of `--hub-url`; where nothing has come of one yet, SINCE and the packet time to begin with.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from time import time_ns
from typing import Any

import click

from hub.cli.errors import USAGE, CliError
from hub.cli.follow import Follower
from hub.cli.regions.hubs import Regions, short
from hub.query.window import point

SEPARATOR = "."
SINCE = "@"
"""In no cursor of a hub, either of them."""
AHEAD = 16
"""Blocks that wait for whoever prints them: a reader that is too slow holds the hubs back, who then skip."""
_HEAD = b'{"nodetap.cursor":"'
_POLL = 0.2


class Followers:
    """Several followings as one; as `hub.cli.follow.Follower`."""

    def __init__(self, regions: Regions, params: dict[str, Any], give_up: float) -> None:
        self._regions = regions
        places = _places(params, len(regions.each))
        self._each = [
            Follower(client, _asked(params, place), give_up, patient=True)
            for client, place in zip(regions.each, places, strict=True)
        ]
        self._places = [place.encode() for place in places]
        self._items: queue.Queue[tuple[int, bytes | str | Exception]] = queue.Queue(AHEAD)
        self._stopped = threading.Event()

    @property
    def rows_lost(self) -> bool:
        """Whether any were."""
        return any(one.rows_lost for one in self._each)

    @property
    def rows_skipped(self) -> bool:
        """Whether any were."""
        return any(one.rows_skipped for one in self._each)

    @property
    def since(self) -> str | None:
        """The earliest packet time from which on a hub was asked."""
        found = [one.since for one in self._each if one.since is not None]
        return "all" if "all" in found else min(found, key=int, default=None)

    def rows(self) -> Iterator[bytes]:
        """Blocks of rows, without end. Raises CliError once no hub is followed any more."""
        for place in range(len(self._each)):
            threading.Thread(target=self._follow, args=(place,), daemon=True).start()
        left = len(self._each)
        try:
            while True:
                place, item = self._items.get()
                if isinstance(item, bytes):
                    yield self._marked(place, item)
                elif isinstance(item, str):
                    self._places[place] = item.encode()
                else:
                    left -= 1
                    self._ended(place, item, left)
        finally:
            self._stopped.set()
            for one in self._each:
                one.over = True

    def _follow(self, place: int) -> None:
        one = self._each[place]
        one.beaten = lambda cursor: self._put(place, cursor)
        try:
            for block in one.rows():
                if not self._put(place, block):
                    return
        except Exception as error:  # whoever waits is to be told, whatever it is
            self._put(place, error)

    def _put(self, place: int, item: bytes | str | Exception) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put((place, item), timeout=_POLL)
                return True
        return False

    def _marked(self, place: int, block: bytes) -> bytes:
        """The rows of one hub with the place at all of them."""
        found = []
        for line in block.splitlines(keepends=True):
            end = line.index(b'"', len(_HEAD))
            self._places[place] = line[len(_HEAD) : end]
            found += [_HEAD, SEPARATOR.encode().join(self._places), line[end:]]
        return b"".join(found)

    def _ended(self, place: int, error: Exception, left: int) -> None:
        """One hub is given up; the others go on. Raises what it was for the last."""
        if not isinstance(error, CliError) or not left or error.code == USAGE:
            raise error
        url = self._regions.each[place].url
        self._regions.broken[url] = short(error, url)
        click.echo(f"nodetap: {error}; the other hubs are followed further", err=True)


def _asked(params: dict[str, Any], place: str) -> dict[str, Any]:
    """What one hub is asked for."""
    if params["cursor"] is None:
        return params
    since = place.removeprefix(SINCE) if place.startswith(SINCE) else None
    return {**params, "cursor": None if since else place, "since": since}


def _places(params: dict[str, Any], hubs: int) -> list[str]:
    """Where each hub begins."""
    cursor, now = params["cursor"], time_ns()
    if cursor is None:
        begin = now if params["since"] is None else point(params["since"], now)
        return [f"{SINCE}{'all' if begin is None else begin}"] * hubs
    places: list[str] = cursor.split(SEPARATOR)
    if len(places) != hubs:
        raise CliError(f"the cursor is one of {len(places)} hubs: give the same --hub-url, in the same order", USAGE)
    return places
