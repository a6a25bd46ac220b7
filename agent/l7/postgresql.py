"""PostgreSQL's protocol 3: start, authentication, simple and extended queries. The verb of a query, never the query."""

from __future__ import annotations

from collections import deque
from struct import Struct

import numpy as np

from agent.l7 import TCP, TURNS, Conn, Heads, Signs, Summary, Turn
from agent.l7.sql import verb
from agent.l7.stream import Mask, Passing, found_in, listed, remember, table_of

PORT = 5432
MOST_SIZE = 1 << 30  # the server's own limit of a message
MOST_OPEN = 1024
MOST_NAMES = 256

STARTS = {
    196608: "Startup message",
    196610: "Startup message",
    80877102: "Cancel request",
    80877103: "SSL request",
    80877104: "GSS encrypt request",
}
CLIENT = frozenset(b"BCDEFHPQSXcdfp")
SERVER = frozenset(b"123ACDEGHIKNRSTVWZcdnstv")
_STARTS = np.array(sorted(STARTS), dtype=np.uint64)
_TYPES, _REFUSALS = table_of(CLIENT | SERVER), table_of(b"SNG")
AUTH = {0: "OK", 2: "KerberosV5", 3: "Cleartext", 5: "MD5", 7: "GSSAPI", 8: "GSSAPI continue", 9: "SSPI"}
AUTH |= {10: "SASL", 11: "SASL continue", 12: "SASL complete"}

_head = Struct(">BI").unpack_from
_word = Struct(">I").unpack_from
_start = Struct(">II").unpack_from
SYNC = 0
"""In the queue of what waits for an answer: here the server says that it is ready."""


class _State(Passing):
    """The statements by name, and what waits for its answer, oldest first.

    Where bytes were missed nobody knows what waits, until the server is ready for one who waits for that before asking
    on. What is asked until then has no answer.
    """

    __slots__ = ("blind", "client", "last", "pipelines", "portals", "queue", "statements")

    def __init__(self, client: int) -> None:
        super().__init__()
        self.client = client
        self.statements: dict[bytes, str] = {}
        self.portals: dict[bytes, str] = {}
        self.queue: deque[int] = deque(maxlen=MOST_OPEN)
        self.last = 0
        self.blind = self.pipelines = False

    def ask(self) -> int:
        """A new key, queued."""
        self.last += 1
        self.pipelines = self.pipelines or SYNC in self.queue
        self.wait(self.last)
        return self.last

    def wait(self, key: int) -> None:
        """Queue what waits for an answer."""
        if not self.blind:
            self.queue.append(key)

    def answer(self) -> int:
        """The key that is answered now; 0 where none is."""
        return self.queue.popleft() if self.queue and self.queue[0] != SYNC else 0

    def ready(self) -> None:
        """The server is ready: what it skipped after an error is answered too."""
        while self.queue and self.queue.popleft() != SYNC:
            pass
        self.blind = self.blind and self.pipelines


class PostgresParser:
    """PostgreSQL and what speaks its protocol."""

    name = "PostgreSQL"
    transports = frozenset((TCP,))
    stateful = True
    signs = Signs((0,), (PORT,))

    def probe(self, heads: Heads) -> Mask:
        """The start of a session anywhere; a message of plausible type and length on PostgreSQL's port."""
        size, code = heads.word(0, 4).astype(np.int64), heads.word(4, 4)
        known = found_in(_STARTS, code)
        start = known & (size >= 8) & (size <= 10_000) & (heads.length >= 8) & (heads.length <= size)
        kind, length = heads.first[:, 0], heads.word(1, 4).astype(np.int64)
        message = _TYPES[kind] & (length >= 4) & (length < 1 << 24) & (heads.length >= 5)
        refused = (heads.length == 1) & _REFUSALS[kind] & (heads.sport == PORT)
        claimed: Mask = start | (heads.port(PORT) & (message | refused))
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read the messages that begin in one segment."""
        if not isinstance(conn.state, _State):
            began = len(payload) >= 8 and _start(payload)[1] in STARTS
            conn.state = _State(side if began or (dport == PORT and sport != PORT) else 1 - side)
        state: _State = conn.state
        client = side == state.client
        if not state.skip[side] and len(payload) == 1 and not client and payload in b"SNG":
            return Summary("PostgreSQL", f"<{payload.decode()}", rest={"pgsql.ssl_response": payload.decode()})
        data = state.take(conn, side, payload)
        if not data:
            return None
        said = _Said(client)
        if client and len(data) >= 8 and _start(data)[1] in STARTS and data[0] == 0:
            said.rest["pgsql.type"] = STARTS[_start(data)[1]]
            state.skip[side] = max(0, _start(data)[0] - len(data))
            return Summary("PostgreSQL", "> " + said.rest["pgsql.type"], rest=said.rest)
        if not self._messages(data, side, conn, said):
            state.lost(conn, side)
        return said.summary() if said.types else None

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut: what waits for its answer is no longer known."""
        if isinstance(conn.state, _State):
            conn.state.lost(conn, side)
            conn.state.queue.clear()
            conn.state.blind = True

    def _messages(self, data: bytes, side: int, conn: Conn, said: _Said) -> bool:
        """Walk over all messages; False where these are none."""
        state: _State = conn.state
        types, read = (CLIENT, _asked) if said.client else (SERVER, _answered)
        at, size = 0, len(data)
        while at + 5 <= size:
            kind, length = _head(data, at)
            if kind not in types or not 4 <= length <= MOST_SIZE:
                return False
            said.kind(kind)
            if kind not in b"dDTtS12n" or (said.client and kind in b"DS"):
                read(state, kind, data[at + 5 : at + 1 + min(length, 4096)], said)
            at += 1 + length
        state.leave(conn, side, data, at)
        return True


class _Said:
    """What one segment says, as it is gathered."""

    __slots__ = ("client", "rest", "turns", "types", "words")

    def __init__(self, client: bool) -> None:
        self.client = client
        self.types: list[str] = []
        self.words: list[str] = []
        self.rest: dict[str, str] = {}
        self.turns: list[Turn] = []

    def kind(self, kind: int) -> None:
        """List the type of a message."""
        if len(self.types) < 32:
            self.types.append(chr(kind))

    def ask(self, operation: str, key: int) -> None:
        """A query."""
        self.words.append(operation)
        self.rest.setdefault("nodetap.operation", operation)
        if len(self.turns) < TURNS:
            self.turns.append(Turn(True, operation, key=key))

    def answer(self, key: int, status: str, error: bool = False) -> None:
        """The answer to a query; what no query waits for is only told."""
        self.words.append(status)
        if key and len(self.turns) < TURNS:
            self.turns.append(Turn(False, status=status, error=error, key=key))

    def summary(self) -> Summary:
        """The whole."""
        text = (">" if self.client else "<") + "/".join(self.types)
        words = listed([word for word in self.words if word])
        return Summary("PostgreSQL", f"{text} {words}".rstrip(), rest=self.rest, turns=tuple(self.turns))


def _name(body: bytes, at: int = 0) -> tuple[bytes, int]:
    """A zero-terminated name, at most 64 bytes of it, and the place behind it."""
    end = body.find(b"\0", at)
    return (body[at : min(end, at + 64)], end + 1) if end >= 0 else (b"", len(body))


def _asked(state: _State, kind: int, body: bytes, said: _Said) -> None:
    """A message of the client."""
    if kind == 81:  # Query
        said.ask(verb(body), state.ask())
        state.wait(SYNC)
    elif kind == 80:  # Parse
        name, at = _name(body)
        remember(state.statements, name, verb(body[at:]), MOST_NAMES)
    elif kind == 66:  # Bind
        portal, at = _name(body)
        remember(state.portals, portal, state.statements.get(_name(body, at)[0], ""), MOST_NAMES)
    elif kind == 69:  # Execute
        said.ask(state.portals.get(_name(body)[0], ""), state.ask())
    elif kind == 83:  # Sync
        state.wait(SYNC)


def _answered(state: _State, kind: int, body: bytes, said: _Said) -> None:
    """A message of the server."""
    if kind == 67:  # CommandComplete
        tag = verb(body)
        said.rest["pgsql.tag"] = tag
        said.answer(state.answer(), tag)
    elif kind == 69:  # ErrorResponse
        code = _code(body)
        said.rest["pgsql.code"] = code
        said.answer(state.answer(), code, True)
    elif kind in b"Is":  # EmptyQueryResponse, PortalSuspended
        said.answer(state.answer(), "EMPTY" if kind == 73 else "SUSPENDED")
    elif kind == 90:  # ReadyForQuery
        state.ready()
        said.rest["pgsql.status"] = str(body[0]) if body else ""
    elif kind == 82 and len(body) >= 4:  # Authentication
        number = _word(body)[0]
        said.rest["pgsql.authtype"] = str(number)
        said.words.append(AUTH.get(number, ""))


def _code(body: bytes) -> str:
    """The SQLSTATE of an error."""
    at = 0 if body[:1] == b"C" else body.find(b"\0C") + 1
    code = body[at + 1 : at + 6]
    return code.decode() if body[at : at + 1] == b"C" and len(code) == 5 and code.isalnum() and code.isascii() else ""


PARSER = PostgresParser()
