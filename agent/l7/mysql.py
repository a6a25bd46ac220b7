"""MySQL's and MariaDB's protocol: greeting, login, commands and the beginning of their responses.

The rows of a result are not walked: a response is what the server sends first after a command. Of a query only its
verb is told. Behind an SSL request the connection is TLS, and behind a login with compression nothing can be read.
"""

from __future__ import annotations

from struct import Struct

import numpy as np

from agent.l7 import TCP, Conn, Heads, Summary, Turn
from agent.l7.sql import verb
from agent.l7.stream import Mask, among, remember, table_of

PORT = 3306
MOST_STATEMENTS = 512

CLIENT_SSL, CLIENT_COMPRESS, CLIENT_41, CLIENT_ZSTD = 0x0800, 0x0020, 0x0200, 1 << 26

NAMES = {
    0: "Sleep",
    1: "Quit",
    2: "Use Database",
    3: "Query",
    4: "Show Fields",
    5: "Create Database",
    6: "Drop Database",
    7: "Refresh",
    8: "Shutdown",
    9: "Statistics",
    10: "Process List",
    12: "Kill Server Thread",
    13: "Dump Debuginfo",
    14: "Ping",
    17: "Change User",
    18: "Send Binlog",
    21: "Register Slave",
    22: "Prepare Statement",
    23: "Execute Statement",
    24: "Send BLOB",
    25: "Close Statement",
    26: "Reset Statement",
    27: "Set Option",
    28: "Fetch Data",
    30: "Send Binlog GTID",
    31: "Reset Connection",
    250: "Execute Bulk Statement",
}
_COMMANDS = table_of(NAMES)
"""Commands under Wireshark's names."""
UNANSWERED = frozenset((1, 24, 25))
QUERY, PREPARE, EXECUTE, BULK = 3, 22, 23, 250

_caps = Struct("<I").unpack_from
_code = Struct("<H").unpack_from

GREETED, LOGIN, READY, CLOSED = range(4)


class _State:
    """Where a connection is: its phase, what waits for a response, the verbs of prepared statements."""

    __slots__ = ("client", "compressed", "phase", "preparing", "statements", "waiting")

    def __init__(self, client: int) -> None:
        self.client = client
        self.phase = READY
        self.waiting = False
        self.preparing = ""
        self.compressed = False
        self.statements: dict[int, str] = {}


def _closer(heads: Heads) -> Mask:
    """The candidates that pass all tests. Shape (n,)."""
    first = heads.first
    size = first[:, 0].astype(np.int64) | first[:, 1].astype(np.int64) << 8 | first[:, 2].astype(np.int64) << 16
    digit = (first[:, 5] >= 48) & (first[:, 5] <= 57)
    whole = (size + 4 == heads.length) & (size > 0)
    greeting = whole & (first[:, 3] == 0) & (first[:, 4] == 10) & digit & (size > 40)
    command = (size > 0) & (first[:, 3] == 0) & _COMMANDS[first[:, 4]] & (heads.dport == PORT)
    login = whole & ((first[:, 3] == 1) | (first[:, 3] == 2)) & (size >= 32) & (heads.dport == PORT)
    answer = (size > 0) & (size + 4 <= heads.length) & (first[:, 3] > 0) & (heads.sport == PORT)
    claimed: Mask = (heads.length > 4) & (greeting | command | login | answer)
    return claimed


class MysqlParser:
    """MySQL and MariaDB."""

    name = "MySQL"
    transports = frozenset((TCP,))
    stateful = True

    def probe(self, heads: Heads) -> Mask:
        """A greeting anywhere; on MySQL's port a packet that is all of its payload, or a response's first packet."""
        return among(heads, (heads.first[:, 4] == 10) | heads.port(PORT), _closer)

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read what begins in one segment."""
        greets = len(payload) > 6 and payload[3] == 0 and payload[4] == 10 and 48 <= payload[5] <= 57
        if not isinstance(conn.state, _State):
            conn.state = _State(1 - side if greets or (sport == PORT and dport != PORT) else side)
        state: _State = conn.state
        if state.phase == CLOSED or len(payload) < 5:
            return None
        if side == state.client:
            return self._client(payload, state)
        if greets and not state.waiting:
            return _greeting(payload, state)
        return self._server(payload, state)

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut: the next response may not be the one that is waited for."""
        if isinstance(conn.state, _State):
            conn.state.waiting = False

    def _client(self, payload: bytes, state: _State) -> Summary | None:
        if state.phase != READY and payload[3] > 0:
            return _login(payload, state)
        state.phase = READY
        kind = payload[4]
        if payload[3] != 0 or kind not in NAMES:
            return None  # the rest of a long statement, a file, an answer of the login
        operation = _operation(payload, kind, state)
        rest = {"mysql.command": str(kind)}
        info = f"Request {NAMES[kind]}"
        if operation:
            rest["nodetap.operation"] = operation
            info += f" {operation}"
        state.waiting = kind not in UNANSWERED
        turns = (Turn(True, operation or NAMES[kind]),) if state.waiting else ()
        return Summary("MySQL", info, rest=rest, turns=turns)

    def _server(self, payload: bytes, state: _State) -> Summary | None:
        if not state.waiting:
            return Summary("MySQL", "Response")
        kind, login = payload[4], state.phase == LOGIN
        if login and kind in (1, 254):
            return Summary("MySQL", "Auth Switch Request" if kind == 254 else "Response")
        state.waiting = False
        if login:
            state.phase = CLOSED if kind == 255 or state.compressed else READY
        if kind == 255 and len(payload) >= 7:
            return _error(payload)
        if kind == 0:
            if state.preparing and len(payload) >= 9:
                remember(state.statements, _caps(payload, 5)[0], state.preparing, MOST_STATEMENTS)
            state.preparing = ""
            return Summary("MySQL", "Response OK", rest={"mysql.response_code": "0"}, turns=(Turn(False, status="OK"),))
        text = "EOF" if kind == 254 else "LOCAL INFILE" if kind == 251 else "TABULAR"
        return Summary("MySQL", f"Response {text}", turns=(Turn(False, status="OK"),))


def _greeting(payload: bytes, state: _State) -> Summary:
    state.phase = GREETED
    version = payload[5 : max(payload.find(b"\0", 5, 69), 5)].decode("ascii", "replace")
    rest = {"mysql.protocol": "10", "mysql.version": version}
    return Summary("MySQL", f"Server Greeting proto=10 version={version}", rest=rest)


def _login(payload: bytes, state: _State) -> Summary | None:
    """The client's first packet; of the login nothing but that it is one."""
    if state.phase == LOGIN:
        return Summary("MySQL", "Auth Switch Response") if state.waiting else None
    if len(payload) < 8:
        return None
    caps = _caps(payload, 4)[0] if _code(payload, 4)[0] & CLIENT_41 else _code(payload, 4)[0]
    if caps & CLIENT_SSL:
        state.phase = CLOSED
        return Summary("MySQL", "SSL Request")
    state.phase, state.waiting = LOGIN, True
    state.compressed = bool(caps & (CLIENT_COMPRESS | CLIENT_ZSTD))
    return Summary("MySQL", "Login Request", turns=(Turn(True, "Login"),))


def _operation(payload: bytes, kind: int, state: _State) -> str:
    """The verb of a query; of a prepared statement where its preparation was seen."""
    state.preparing = ""
    if kind == QUERY:
        at = 5
        if payload[5:7] == b"\0\1":  # no query attributes, one set of them
            at = 7
        return verb(payload[at:])
    if kind == PREPARE:
        state.preparing = verb(payload[5:])
        return state.preparing
    if kind in (EXECUTE, BULK) and len(payload) >= 9:
        return state.statements.get(_caps(payload, 5)[0], "")
    return ""


def _error(payload: bytes) -> Summary:
    code = str(_code(payload, 5)[0])
    rest = {"mysql.response_code": "255", "mysql.error_code": code}
    if payload[7:8] == b"#":
        rest["mysql.sqlstate"] = payload[8:13].decode("ascii", "replace")
    return Summary("MySQL", f"Response Error {code}", rest=rest, turns=(Turn(False, status=code, error=True),))


PARSER = MysqlParser()
