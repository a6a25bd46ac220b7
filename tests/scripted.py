"""A hub that does what a test tells it to: a real listener, one function per connection."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from protocol.codec import decode, encode
from protocol.messages import Ack, Batch, Echo, EchoReply, Hello, Message, Tombstone, Welcome

Play = Callable[["Line"], None]


class Line:
    """One connection: `hear` and `say` messages. `number` counts connections from 1."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket, self.number = socket, number

    def hear(self, timeout: float = 20.0) -> Message:
        return decode(self.socket.recv(timeout), "agent")[0]

    def say(self, message: Message) -> None:
        self.socket.send(encode(message))

    def welcome(self, store: str = "store", window: tuple[int, int] = (64, 1 << 20), held: Iterable[int] = ()) -> Hello:
        """Hear a hello and welcome it, holding those numbers."""
        hello = self.hear()
        assert isinstance(hello, Hello)
        ranges = [[seq, seq] for seq in sorted(held)]
        self.say(Welcome(1, self.number, store, {e: [0, ranges] for e in hello.streams}, *window))
        return hello

    def take(self) -> Batch | Tombstone:
        """The next batch or tombstone; echoes before it are answered."""
        while True:
            message = self.hear()
            if isinstance(message, Batch | Tombstone):
                return message
            if isinstance(message, Echo):
                self.say(EchoReply(message.id))

    def acknowledge_all(self, after: float = 0.0) -> None:
        """Acknowledge whatever comes, each `after` seconds late, until the agent leaves."""
        while True:
            message = self.take()
            time.sleep(after)
            self.say(Ack(message.epoch, 0, [[message.seq, message.seq]], 64, 1 << 20))


class ScriptedHub:
    """`handshakes` are the times at which connections were accepted."""

    def __init__(self, play: Play, port: int) -> None:
        self.handshakes: list[float] = []
        self._play = play
        self._server = serve(self._serve, "127.0.0.1", port, compression=None, ping_interval=None, max_size=16 << 20)
        self.ws = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def _serve(self, socket: ServerConnection) -> None:
        self.handshakes.append(time.monotonic())
        with contextlib.suppress(ConnectionClosed, TimeoutError, EOFError):
            self._play(Line(socket, len(self.handshakes)))


@contextlib.contextmanager
def scripted(play: Play, port: int = 0) -> Iterator[ScriptedHub]:
    """A hub on loopback that plays `play(line)` on each connection, until the block ends."""
    hub = ScriptedHub(play, port)
    thread = threading.Thread(target=hub._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub._server.shutdown()
        thread.join(10)
