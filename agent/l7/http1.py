"""HTTP/1: request and status lines, and of the headers host, user agent and content type (RFC 9112).

A segment is read on its own, as tshark does with reassembly off: messages are found at its beginning and behind one
another (pipelining, 100 Continue), never in the middle of a body. SSDP says the same over UDP, port 1900.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.l7 import TCP, UDP, Conn, Heads, Summary, Turn, Value
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
SSDP = 1900
MOST = 64
"""Messages of one payload that are read."""

_VERBS = frozenset(METHODS)
_STARTS = (b"HTTP/1.", *(f"{method} ".encode() for method in METHODS))
_PAIR = np.zeros(65536, dtype=np.bool_)  # the first two bytes of any of them
_PAIR[[int.from_bytes(start[:2]) for start in _STARTS]] = True
_WORDS = np.array(sorted({int.from_bytes(start[:4]) for start in _STARTS}), dtype=np.uint64)
_HEADERS = tuple(
    (f"\n{name}:", len(name) + 2, f"http_{name.replace('-', '_')}") for name in ("host", "user-agent", "content-type")
)
_BODILESS = (204, 304)
_ALL = 1 << 40


class Http1Parser:
    """HTTP/1.0 and 1.1 on any port, by content; no state."""

    name = "http"
    transports = frozenset((TCP, UDP))
    stateful = False

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """The beginning of a method, or of `HTTP/1.`."""
        found = _PAIR[heads.word(0, 2)]
        at = np.flatnonzero(found)
        if len(at):
            found[at] = np.isin(heads.word(0, 4)[at], _WORDS) & (heads.length[at] >= 8)
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """The messages that begin in one payload."""
        found = _Found()
        at, lenient = 0, sport in PORTS or dport in PORTS
        for _ in range(MOST):
            end, behind = _end(payload, at)
            raw = payload[at:end]
            text = raw.decode("utf-8", "replace")
            stop = text.find("\n")
            line, ended = (text[:stop] if stop >= 0 else text).rstrip("\r"), stop >= 0
            read = found.status(line) if line.startswith("HTTP/1.") else found.request(line, lenient or not ended)
            if not read:
                break
            low = text.lower() if raw.isascii() else raw.lower().decode("utf-8", "replace")  # as long as `text`
            found.headers(text, low)
            if not behind or behind == len(payload) or payload.find(b"HTTP/1.", behind) < 0:
                break
            at = behind + found.body(low)
            if payload[at : at + 2] == b"\r\n":  # an empty line before a request is passed over (RFC 9112, 2.2)
                at += 2
        if not found.info:
            return None
        l7 = "SSDP" if sport == SSDP or dport == SSDP else "HTTP"
        return Summary(l7, ", ".join(found.info), found.fields, turns=tuple(found.turns))


def _end(payload: bytes, at: int) -> tuple[int, int]:
    """Where the headers of the message at `at` end, and where what follows them begins; 0 where it is not there."""
    end = payload.find(b"\r\n\r\n", at)
    if end >= 0:
        return end, end + 4
    end = payload.find(b"\n\n", at)
    return (end, end + 2) if end >= 0 else (len(payload), 0)


def _shown(text: str) -> str:
    return printed(text.encode())


class _Found:
    """What the messages of one payload say."""

    __slots__ = ("code", "fields", "info", "turns")

    def __init__(self) -> None:
        self.fields: dict[str, Value] = {}
        self.info: list[str] = []
        self.turns: list[Turn] = []
        self.code = 0  # status of the message being read, 0 of a request

    def put(self, name: str, value: str | int) -> None:
        """One more value of a column."""
        if name in self.fields:
            self.fields[name].append(value)  # type: ignore[union-attr,arg-type]
        else:
            self.fields[name] = [value]  # type: ignore[assignment]

    def request(self, line: str, lenient: bool) -> bool:
        """METHOD SP target SP HTTP/1.x; `lenient`: the version may be missing (a line that is cut, HTTP's ports)."""
        method, _, rest = line.partition(" ")
        if method not in _VERBS:
            return False
        target, space, version = rest.rpartition(" ")
        if not space or not version.startswith("HTTP/"):
            if not lenient or rest.rstrip().endswith(("SIP/2.0", "RTSP/1.0")):
                return False
            target = rest.partition(" ")[0]
        uri = target if target.isprintable() else _shown(target)
        self.code = 0
        self.put("http_method", method)
        self.put("http_uri", uri)
        self.info.append(line if line.isprintable() else _shown(line))
        self.turns.append(Turn(True, f"{method} {uri.partition('?')[0]}"))
        return True

    def status(self, line: str) -> bool:
        """HTTP/1.x SP code SP reason."""
        code = line[9:12]
        if line[8:9] != " " or len(code) != 3 or not (code.isascii() and code.isdigit()):
            return False
        self.code = int(code)
        self.put("http_status", self.code)
        self.info.append(line if line.isprintable() else _shown(line))
        if self.code >= 200 or self.code == 101:
            self.turns.append(Turn(False, "", code, self.code >= 400))
        return True

    def headers(self, text: str, low: str) -> None:
        """The headers that have columns; `low` is `text` in small letters."""
        for name, size, column in _HEADERS:
            place = low.find(name)
            while place >= 0:
                place += size
                stop = text.find("\n", place)
                value = (text[place:stop] if stop >= 0 else text[place:]).strip(" \t\r")
                if not value.isprintable():
                    value = _shown(value)
                if value:
                    self.put(column, value)
                if self.code and column == "http_content_type":
                    self.info[-1] += f"  ({value.partition(';')[0]})"
                place = low.find(name, stop) if stop >= 0 else -1

    def body(self, low: str) -> int:
        """Bytes to the next message; many where it cannot be known."""
        if self.code and (self.code < 200 or self.code in _BODILESS):
            return 0
        place = low.find("\ncontent-length:")
        if "\ntransfer-encoding:" in low or (self.code and place < 0):
            return _ALL
        size = low[place + 16 : place + 40].partition("\n")[0].strip() if place >= 0 else "0"
        return int(size) if size.isascii() and size.isdigit() else _ALL


PARSER = Http1Parser()
