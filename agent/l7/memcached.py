"""Memcached: the text and the binary protocol over TCP, the text protocol over UDP. Verbs and outcomes, no keys."""

from __future__ import annotations

from struct import Struct

import numpy as np

from agent.l7 import TCP, TURNS, UDP, Conn, Heads, Signs, Summary, Turn
from agent.l7.stream import Mask, Passing, listed, table_of

PORT = 11211
MOST_LINE = 2048
MOST_BODY = 1 << 30

STORES = {b"set", b"add", b"replace", b"append", b"prepend", b"cas"}
READS = {b"get", b"gets", b"gat", b"gats"}
OTHERS = {b"incr", b"decr", b"delete", b"touch", b"stats", b"version", b"verbosity", b"flush_all", b"slabs", b"lru"}
OTHERS |= {b"cache_memlimit", b"quit", b"shutdown", b"watch", b"mg", b"ms", b"md", b"ma", b"mn", b"me"}
VERBS = frozenset(STORES | READS | OTHERS)
UNANSWERED = frozenset((b"quit", b"shutdown"))

SAYS = {b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND", b"DELETED", b"TOUCHED", b"OK", b"VERSION", b"RESET"}
FAILS = frozenset((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR", b"BUSY", b"BADCLASS", b"NOSPARE", b"NOTFULL", b"UNSAFE"))
META = {b"HD", b"VA", b"EN", b"NF", b"NS", b"EX", b"MN", b"ME"}
WHOLE = frozenset(SAYS | FAILS | META)
"""Responses that are one line (and for VA a value)."""
PARTS = frozenset((b"VALUE", b"STAT", b"ITEM"))
"""Lines of which a response has several, up to END."""

OPCODES = (
    *("Get", "Set", "Add", "Replace", "Delete", "Increment", "Decrement", "Quit", "Flush", "Get Quietly", "No-op"),
    *("Version", "Get Key", "Get Key Quietly", "Append", "Prepend", "Statistics", "Set Quietly", "Add Quietly"),
    *("Replace Quietly", "Delete Quietly", "Increment Quietly", "Decrement Quietly", "Quit Quietly"),
    *("Flush Quietly", "Append Quietly", "Prepend Quietly", "Verbosity", "Touch", "Get and Touch"),
    *("Get and Touch Quietly", "SASL List Mechanisms", "SASL Authenticate", "SASL Step"),
)
"""By opcode, as Wireshark names them."""
STATUSES = {
    0: "No error",
    1: "Key not found",
    2: "Key exists",
    3: "Value too large",
    4: "Invalid arguments",
    5: "Item not stored",
    6: "Incr/Decr on non-numeric value",
    32: "Authentication error",
    33: "Authentication continue",
    129: "Unknown command",
    130: "Out of memory",
}
FINE = frozenset((0, 1, 2, 5, 33))
"""Statuses of the binary protocol that are no failure of the server or the client: misses and lost races."""

_binary = Struct(">BBHBBHII").unpack_from  # magic, opcode, key, extras, type, status, body, opaque
_udp = Struct(">HHHH").unpack_from  # request id, sequence, datagrams, reserved
BEGINNINGS = table_of((*(word[0] for word in VERBS | WHOLE | PARTS | {b"END"}), *range(48, 58)))


class _State(Passing):
    """Whether a response of several lines has begun."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        super().__init__()
        self.begun = False

    def lost(self, conn: Conn, side: int) -> None:
        super().lost(conn, side)
        self.begun = False


class _Said:
    """What one segment says, as it is gathered."""

    __slots__ = ("rest", "texts", "turns")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.turns: list[Turn] = []
        self.rest: dict[str, str] = {}

    def ask(self, name: str, answered: bool, key: int | None = None) -> None:
        """A request."""
        self.texts.append(name)
        if answered and len(self.turns) < TURNS:
            self.turns.append(Turn(True, name, key=key))

    def answer(self, status: str, error: bool = False, key: int | None = None) -> None:
        """A response."""
        self.texts.append(status)
        if len(self.turns) < TURNS:
            self.turns.append(Turn(False, status=status, error=error, key=key))


class MemcachedParser:
    """Memcached."""

    name = "Memcached"
    transports = frozenset((TCP, UDP))
    stateful = True
    signs = Signs((0x80, 0x81), (PORT,))

    def probe(self, heads: Heads) -> Mask:
        """A binary message that is all of its payload; on memcached's port what begins as a verb or a response does."""
        first = heads.first
        magic, body = first[:, 0], heads.word(8, 4).astype(np.int64)
        sane = (heads.length >= 16) & (first[:, 1] < len(OPCODES)) & (first[:, 5] == 0) & (body <= MOST_BODY)
        sane &= heads.word(2, 2).astype(np.int64) + first[:, 4] <= body
        port = heads.port(PORT)
        binary = ((magic == 0x80) | (magic == 0x81)) & sane & ((body + 24 == heads.length) | port)
        datagram = (heads.word(2, 2) < heads.word(4, 2)) & (heads.word(6, 2) == 0) & BEGINNINGS[first[:, 8]]
        text = (heads.length >= 3) & (BEGINNINGS[magic] | datagram)
        claimed: Mask = binary | (port & text)
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read the requests, or the responses, that begin in one segment or datagram."""
        if not isinstance(conn.state, _State):
            conn.state = _State()
        state: _State = conn.state
        said = _Said()
        if not state.skip[side] and not conn.pending[side] and _is_datagram(payload):
            return _datagram(payload, said)
        data = state.take(conn, side, payload)
        if data[:1] in (b"\x80", b"\x81"):
            self._binary(data, side, conn, said)
        elif data:
            self._text(data, side, conn, said)
        return _summary(said)

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut."""
        if isinstance(conn.state, _State):
            conn.state.lost(conn, side)

    def _binary(self, data: bytes, side: int, conn: Conn, said: _Said) -> None:
        at, size = 0, len(data)
        while at + 24 <= size:
            magic, code, key, extras, kind, status, body, opaque = _binary(data, at)
            if magic not in (0x80, 0x81) or kind or key + extras > body or body > MOST_BODY:
                conn.state.lost(conn, side)
                return
            name = OPCODES[code] if code < len(OPCODES) else f"Opcode {code}"
            said.rest.setdefault("memcache.opcode", str(code))
            if magic == 0x80:
                said.ask(name, not name.endswith("Quietly"), opaque)
            else:
                said.rest.setdefault("memcache.status", str(status))
                said.answer(STATUSES.get(status, str(status)), status not in FINE, opaque)
            at += 24 + body
        conn.state.leave(conn, side, data, at)

    def _text(self, data: bytes, side: int, conn: Conn, said: _Said) -> None:
        at = _lines(data, conn.state, said)
        if at < 0 or (at < len(data) and len(data) - at > MOST_LINE):
            conn.state.lost(conn, side)
        else:
            conn.state.leave(conn, side, data, at)


def _is_datagram(payload: bytes) -> bool:
    """Whether UDP's frame header stands before a text command or response."""
    if len(payload) < 10:
        return False
    _, number, count, reserved = _udp(payload)
    return number < count and not reserved and bool(BEGINNINGS[payload[8]])


def _datagram(payload: bytes, said: _Said) -> Summary | None:
    """UDP: every datagram on its own; only the first of a message says what it is."""
    key, number, _, _ = _udp(payload)
    if number > 0:
        return None
    _lines(payload[8:], _State(), said)
    said.turns = [Turn(t.request, t.operation, t.status, t.error, key) for t in said.turns[:1]]
    return _summary(said)


def _lines(data: bytes, state: _State, said: _Said) -> int:
    """Read the lines of the text protocol; the place behind them (which may be behind the data), -1 for junk."""
    at, size = 0, len(data)
    while at < size:
        end = data.find(b"\n", at, at + MOST_LINE)
        if end < 0:
            return at
        words = data[at:end].split(None, 5)
        tail, at = data[max(at, end - 12) : end], end + 1
        if not words:
            continue
        if words[0] in VERBS:
            at += _asked(words, tail, said)
        else:
            more = _answered(words, state, said)
            if more < 0:
                return -1
            at += more
    return at


def _number(words: list[bytes], at: int) -> int:
    """The bytes of a value with its line end, where a line says how many; 0 where it does not."""
    return int(words[at]) + 2 if len(words) > at and words[at].isdigit() and len(words[at]) < 10 else 0


def _asked(words: list[bytes], tail: bytes, said: _Said) -> int:
    """A request; the bytes of the value behind its line."""
    verb = words[0]
    said.ask(verb.decode(), verb not in UNANSWERED and not tail.rstrip().endswith(b"noreply"))
    said.rest.setdefault("memcache.command", verb.decode())
    return _number(words, 4) if verb in STORES else _number(words, 2) if verb == b"ms" else 0


def _answered(words: list[bytes], state: _State, said: _Said) -> int:
    """A line of a response; the bytes of the value behind it, -1 where it is none."""
    word = words[0]
    if word in PARTS:
        if not state.begun:
            said.answer(word.decode())
        state.begun = True
        return _number(words, 3) if word == b"VALUE" else 0
    if word == b"END":
        if not state.begun:
            said.answer("END")
        state.begun = False
        return 0
    state.begun = False
    if word in WHOLE:
        said.answer(word.decode(), word in FAILS)
        return _number(words, 1) if word == b"VA" else 0
    if word.isdigit() and len(words) == 1:
        said.answer("Number")
        return 0
    return -1


def _summary(said: _Said) -> Summary | None:
    if not said.texts:
        return None
    if said.turns and not said.turns[0].request:
        said.rest.setdefault("memcache.response", said.turns[0].status)
    return Summary("Memcached", listed(said.texts), rest=said.rest, turns=tuple(said.turns))


PARSER = MemcachedParser()
