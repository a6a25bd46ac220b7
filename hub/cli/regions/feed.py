"""One hub's answer while others are asked too: read by a thread of its own, a few chunks ahead."""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from hub.cli.client import Client, Head
from hub.cli.errors import CliError

AHEAD = 16
"""Chunks that wait for whoever puts the answers together."""
PIECE = 1 << 20
"""Bytes that are read at once of what waits in a file."""
_POLL = 0.2


class Feed:
    """An answer on its way. `trouble` is why it is not here, or not to its end; `came` is set when something comes.

    It is asked for after `pause` seconds.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        params: Mapping[str, Any],
        silence: float | None = None,
        came: threading.Event | None = None,
        pause: float = 0.0,
    ) -> None:
        self.url = client.url
        self.trouble: CliError | None = None
        self.head: Head | None = None
        self._came, self._pause = came, pause
        self._items: queue.Queue[Any] = self._queue()
        self._stopped = threading.Event()
        work = threading.Thread(target=self._run, args=(client, path, dict(params), silence), daemon=True)
        work.start()

    def _queue(self) -> queue.Queue[Any]:
        return queue.Queue(AHEAD)

    def _run(self, client: Client, path: str, params: Mapping[str, Any], silence: float | None) -> None:
        if self._stopped.wait(self._pause):
            return
        try:
            with client.stream(path, params, silence=silence) as (head, chunks):
                self._put(head)
                for chunk in chunks:
                    if not self._put(chunk):
                        return
            self._put(None)
        except Exception as error:  # whoever waits is to be told, whatever it is
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=_POLL)
                if self._came is not None:
                    self._came.set()
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
        taken: Head | bytes | None = item
        return taken

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

    def here(self) -> Iterator[bytes | None]:
        """What has come of the body by now; None at the end of all, or where it broke off."""
        for _ in range(self._items.qsize()):
            item = self._next()
            if isinstance(item, Head):
                self.head = item
            else:
                yield item

    def stop(self) -> None:
        """Take no more."""
        self._stopped.set()


class Spooled(Feed):
    """One that nobody holds up: what waits lies in a file without a name.

    Frames of one hub may wait for minutes for older ones of another, and a hub ends an answer that nobody takes.
    """

    def __init__(self, client: Client, path: str, params: Mapping[str, Any], silence: float | None = None) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the answer
        self._written = self._read = 0
        super().__init__(client, path, params, silence)

    def _queue(self) -> queue.Queue[Any]:
        return queue.Queue()

    def _put(self, item: Any) -> bool:
        return super()._put(self._kept(item) if isinstance(item, bytes) else item)

    def _kept(self, data: bytes) -> int:
        """Up to where the file is written now. Raises CliError."""
        rest = memoryview(data)
        try:
            while rest:
                count = os.pwrite(self._file.fileno(), rest, self._written)
                self._written, rest = self._written + count, rest[count:]
        except OSError as error:
            where = tempfile.gettempdir()
            raise CliError(f"no room in {where} for what waits: {error.strerror}; name another with TMPDIR") from None
        return self._written

    def _next(self) -> Head | bytes | None:
        while True:
            item: Any = super()._next()
            if not isinstance(item, int):
                taken: Head | bytes | None = item
                return taken
            if item > self._read:  # the piece before may have been read with this one
                data = os.pread(self._file.fileno(), max(PIECE, item - self._read), self._read)
                self._read += len(data)
                return data
