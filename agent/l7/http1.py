"""HTTP/1: request and status lines, and of the headers host, user agent and content type (RFC 9112).

A segment is read on its own, as tshark does with reassembly off: messages are found at its beginning and behind one
another (pipelining, 100 Continue), never in the middle of a body. SSDP says the same over UDP, port 1900.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.l7 import SCTP, TCP, TURNS, UDP, Batch, Conn, Findings, Heads, Signs, Summary, Turn, Value, port_table
from agent.l7.stream import found_in
from agent.l7.text import printed

METHODS = (
    *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH"),  # RFC 9110, 5789
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "SEARCH"),  # RFC 4918, 5323
    *("REPORT", "CHECKOUT", "CHECKIN", "UNCHECKOUT", "MKWORKSPACE", "MKACTIVITY", "MERGE"),  # RFC 3253
    *("VERSION-CONTROL", "LABEL", "UPDATE", "BASELINE-CONTROL", "ACL", "LINK", "UNLINK", "BIND", "UNBIND", "REBIND"),
    *("POLL", "BCOPY", "BMOVE", "BDELETE", "BPROPFIND", "BPROPPATCH", "RPC_CONNECT", "RPC_IN_DATA", "RPC_OUT_DATA"),
    *(
        "NOTIFY",
        "M-SEARCH",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "MKCALENDAR",
        "ORDERPATCH",
        "MKREDIRECTREF",
        "UPDATEREDIRECTREF",
    ),
)
PORTS = (80, 3128, 3132, 5985, 8080, 8088, 11371, 1900, 2869, 2710)
"""Ports on which a request line may lack its version, as tshark has them."""
_PORT = port_table(PORTS)
SSDP = 1900

_VERBS = frozenset(METHODS)
_STARTS = (b"HTTP/1.", *(f"{method} ".encode() for method in METHODS))
_WORDS = np.array(sorted({int.from_bytes(start[:4]) for start in _STARTS}), dtype=np.uint64)
_COLUMNS = {b"host": "http_host", b"user-agent": "http_user_agent", b"content-type": "http_content_type"}


def _any_case(word: bytes) -> bytes:
    """A pattern for the word; ten times faster than one that ignores case."""
    return b"".join(b"[%c%c]" % (c, c - 32) if chr(c).isalpha() else b"%c" % c for c in word)


_headers = re.compile(rb"\n(%s):([^\n]*)" % b"|".join(map(_any_case, _COLUMNS))).findall
_BODILESS = (204, 304)
_ALL = 1 << 40
_SHORT = 256
"""Bytes of lines and header values that are remembered: most come again and again."""


class Start(NamedTuple):
    """What a request or status line says. `code` is 0 of a request; `turn` is None of 1xx."""

    code: int
    line: str
    method: str
    uri: str
    turn: Turn | None


def _shown(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    return text if text.isprintable() else printed(text.encode())


def _value(raw: bytes) -> str:
    """A header's value without the blanks around it."""
    return _shown(raw.strip(b" \t\r"))


def _start(raw: bytes, lenient: bool) -> Start | None:
    """A first line; None where it is none. `lenient`: a request's version may be missing."""
    line = raw.rstrip(b"\r")
    return _status(line) if line.startswith(b"HTTP/1.") else _request(line, lenient)


def _request(line: bytes, lenient: bool) -> Start | None:
    """METHOD SP target SP HTTP/1.x"""
    verb, _, rest = line.partition(b" ")
    method = verb.decode("latin-1")
    if method not in _VERBS:
        return None
    target, space, version = rest.rpartition(b" ")
    if not space or not version.startswith(b"HTTP/"):
        if not lenient or rest.rstrip().endswith((b"SIP/2.0", b"RTSP/1.0")):
            return None
        target = rest.partition(b" ")[0]
    uri = _shown(target)
    return Start(0, _shown(line), method, uri, Turn(True, f"{method} {uri.partition('?')[0]}"))


def _status(line: bytes) -> Start | None:
    """HTTP/1.x SP code SP reason."""
    digits = line[9:12]
    if line[8:9] != b" " or len(digits) != 3 or not digits.isdigit():
        return None
    code, text = int(digits), digits.decode()
    turn = Turn(False, "", text, code >= 400) if code >= 200 or code == 101 else None
    return Start(code, _shown(line), "", "", turn)


_start_kept, _value_kept = lru_cache(1024)(_start), lru_cache(1024)(_value)


class Http1Parser:
    """HTTP/1.0 and 1.1 on any port, by content; no state."""

    name = "http"
    transports = frozenset((TCP, UDP, SCTP))
    stateful = False
    signs = Signs({start[0] for start in _STARTS})

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """The beginning of a method, or of `HTTP/1.`."""
        return found_in(_WORDS, heads.word(0, 4)) & (heads.length >= 8)

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """The messages that begin in one payload."""
        said = _Said()
        if not said.read(0, payload, sport in PORTS or dport in PORTS):
            return None
        fields: dict[str, Value] = {name: values for name, (_, values) in said.cells.items() if values}
        return Summary(_name(sport, dport), said.lines[0], fields, turns=tuple(turn for _, turn in said.turns))

    def feed_all(self, batch: Batch) -> Findings:
        """As `feed`, of many payloads."""
        said = _Said()
        lenient = (_PORT[batch.sport] | _PORT[batch.dport]).tolist()
        found = Findings([i for i, payload in enumerate(batch.payloads) if said.read(i, payload, lenient[i])])
        found.info, found.cells, found.turns = said.lines, said.cells, said.turns
        if ((batch.sport == SSDP) | (batch.dport == SSDP)).any():
            found.l7 = [_name(int(batch.sport[i]), int(batch.dport[i])) for i in found.at]
        else:
            found.l7 = ["HTTP"] * len(found.at)
        return found


class _Said:
    """What is said of payloads: the line of each that says something; per column, and of turns, the payload's number
    and the value."""

    __slots__ = ("cells", "lines", "turns")

    def __init__(self) -> None:
        self.lines: list[str] = []
        requests: list[int] = []
        self.cells: Any = {  # of lists
            "http_method": (requests, []),
            "http_uri": (requests, []),
            "http_status": ([], []),
            **{column: ([], []) for column in _COLUMNS.values()},
        }
        self.turns: list[tuple[int, Turn]] = []

    def read(self, number: int, payload: bytes, lenient: bool) -> bool:
        """Read the messages of one payload; whether there are any."""
        line, at = "", 0
        for _ in range(TURNS):
            end = payload.find(b"\r\n\r\n", at)
            behind = end + 4
            if end < 0:
                end = payload.find(b"\n\n", at)
                end, behind = (end, end + 2) if end >= 0 else (len(payload), len(payload))
            stop = payload.find(b"\n", at, end)
            raw = payload[at : stop if stop >= 0 else end]
            read = _start_kept if len(raw) <= _SHORT else _start
            start = read(raw, lenient or at + len(raw) == len(payload))
            if start is None:
                break
            line += (", " if line else "") + start.line
            self._first(number, start)
            if stop >= 0:
                line += self._headers(number, _headers(payload, stop, end), start.code)
            if behind == len(payload) or payload.find(b"HTTP/1.", behind) < 0:
                break
            at = behind + _body(payload[at:end].lower(), start.code)
            if payload[at : at + 2] == b"\r\n":  # an empty line before a request is passed over (RFC 9112, 2.2)
                at += 2
        if line:
            self.lines.append(line)
        return bool(line)

    def _first(self, number: int, start: Start) -> None:
        cells = self.cells
        if start.code:
            at, codes = cells["http_status"]
            at.append(number)
            codes.append(start.code)
        else:
            cells["http_method"][0].append(number)  # the numbers of http_uri as well
            cells["http_method"][1].append(start.method)
            cells["http_uri"][1].append(start.uri)
        if start.turn is not None:
            self.turns.append((number, start.turn))

    def _headers(self, number: int, headers: list[tuple[bytes, bytes]], code: int) -> str:
        """The headers that have columns. What they add to the line."""
        more = ""
        for name, raw in headers:
            value = (_value_kept if len(raw) <= _SHORT else _value)(raw)
            column = _COLUMNS[name.lower()]
            at, values = self.cells[column]
            at.append(number)
            values.append(value)  # empty where the header is
            if code and column == "http_content_type":
                more += f"  ({value.partition(';')[0]})"
        return more


def _body(low: bytes, code: int) -> int:
    """Bytes to the next message, by its headers in small letters; many where it cannot be known."""
    if code and (code < 200 or code in _BODILESS):
        return 0
    place = low.find(b"\ncontent-length:")
    if b"\ntransfer-encoding:" in low or (code and place < 0):
        return _ALL
    size = low[place + 16 : place + 40].partition(b"\n")[0].strip() if place >= 0 else b"0"
    return int(size) if size.isdigit() else _ALL


def _name(sport: int, dport: int) -> str:
    return "SSDP" if SSDP in (sport, dport) else "HTTP"


PARSER = Http1Parser()
