"""One hub's answer while others are asked too: read by a thread of its own, a few chunks ahead."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from hub.cli.client import Client, Head
from hub.cli.errors import CliError

AHEAD = 16
"""Chunks that wait for whoever puts the answers together."""
_POLL = 0.2


class Feed:
    """An answer on its way. `trouble` is why it is not here, or not to its end."""

    def __init__(self, client: Client, path: str, params: Mapping[str, Any], silence: float | None = None) -> None:
        self.url = client.url
        self.trouble: CliError | None = None
        self.head: Head | None = None
        self._items: queue.Queue[Head | bytes | Exception | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        work = threading.Thread(target=self._run, args=(client, path, dict(params), silence), daemon=True)
        work.start()

    def _run(self, client: Client, path: str, params: Mapping[str, Any], silence: float | None) -> None:
        try:
            with client.stream(path, params, silence=silence) as (head, chunks):
                self._put(head)
                for chunk in chunks:
                    if not self._put(chunk):
                        return
            self._put(None)
        except Exception as error:  # whoever waits is to be told, whatever it is
            self._put(error)

    def _put(self, item: Head | bytes | Exception | None) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=_POLL)
                return True
        return False

    def _next(self) -> Head | bytes | None:
        """The next item; None at the end, or where it broke off. Raises what nobody expected."""
        item = self._items.get()
        if isinstance(item, CliError):
            self.trouble = item
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def begun(self) -> bool:
        """Whether the hub answers."""
        if self.head is None and self.trouble is None:
            item = self._next()
            self.head = item if isinstance(item, Head) else None
        return self.head is not None

    def chunks(self) -> Iterator[bytes]:
        """The body, as far as it comes."""
        while isinstance(item := self._next(), bytes):
            yield item

    def stop(self) -> None:
        """Take no more."""
        self._stopped.set()
