"""HTTP/2 in clear text (RFC 9113) and gRPC over it: frames, the fields of header blocks, calls by stream.

A connection is known by its preface, by the preface after an upgrade to h2c, or in the middle by frames that fit their
payload. Header fields are read as their bytes come (`hpack_fields`); bodies are passed over.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np

from agent.l7 import TCP, Conn, Heads, Signs, Summary, Turn, Value
from agent.l7.hpack_fields import Broken, Field, Fields
from agent.l7.stream import Mask, Passing, listed, remember

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST_FRAMES = 256
"""Most frames of a segment, values of a column and halves of calls that are told."""
MOST_STREAMS = 1024

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NAMES = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
]
BLOCKS = frozenset((HEADERS, PUSH_PROMISE, CONTINUATION))
WAITED = BLOCKS | {RST_STREAM, GOAWAY}
"""Types whose frames are read whole; of others the beginning is enough."""

# type -> shortest and longest length, flags that exist, whether it belongs to a stream (None: either)
SHAPES: dict[int, tuple[int, int, int, bool | None]] = {
    DATA: (0, 1 << 24, 0x09, True),
    HEADERS: (1, 65_536, 0x2D, True),
    PRIORITY: (5, 5, 0, True),
    RST_STREAM: (4, 4, 0, True),
    SETTINGS: (0, 1024, 0x01, False),
    PUSH_PROMISE: (5, 65_536, 0x0C, True),
    PING: (8, 8, 0x01, False),
    GOAWAY: (8, 65_536, 0, False),
    WINDOW_UPDATE: (4, 4, 0, None),
    CONTINUATION: (0, 65_536, 0x04, True),
    10: (2, 65_536, 0, None),  # ALTSVC, RFC 7838
    12: (0, 65_536, 0, False),  # ORIGIN, RFC 8336
    16: (4, 65_536, 0, False),  # PRIORITY_UPDATE, RFC 9218
}
END_STREAM, END_HEADERS, PADDED, PRIORITIZED = 0x01, 0x04, 0x08, 0x20

ERRORS = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
]
GRPC_CODES = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]

TEXT_COLUMNS = {
    ":method": "http_method",
    ":authority": "http_host",
    ":path": "http_uri",
    "user-agent": "http_user_agent",
    "content-type": "http_content_type",
}
NUMBER_COLUMNS = {":status": "http_status", "grpc-status": "grpc_status"}

_frame = Struct(">IBI").unpack_from  # length and type, flags, stream
_word = Struct(">I").unpack_from

GRPC, ANSWERED = 1, 2


class _Block:
    """A header block that is being read: the fields so far, bytes of an unfinished field."""

    __slots__ = ("fields", "partial", "rest", "said", "stream")

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.fields: dict[str, str] = {}
        self.rest = b""
        self.said = False  # its turn was given
        self.partial = False  # fields were left out, see `hpack_fields`


class _State(Passing):
    """A connection: what HPACK remembers, header blocks that are open, and the streams."""

    __slots__ = ("blocks", "fields", "grpc", "listed", "streams", "synced")

    def __init__(self, complete: bool) -> None:
        super().__init__()
        self.fields = (Fields(complete), Fields(complete))
        self.blocks: list[_Block | None] = [None, None]
        self.listed = [False, False]  # the frame that is pending was listed when it began
        self.synced = [complete, complete]  # we know where frames begin
        self.streams: dict[int, int] = {}  # stream -> GRPC | ANSWERED
        self.grpc = False  # gRPC was seen here: a header block that cannot be read in full is taken for it

    def lost(self, conn: Conn, side: int) -> None:
        super().lost(conn, side)
        self.fields[side].forget()
        self.blocks[side] = None
        self.listed[side] = self.synced[side] = False


class _Said:
    """What one segment says, as it is gathered."""

    __slots__ = ("columns", "grpc", "ids", "rest", "texts", "turns", "types")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.types: list[int] = []
        self.texts: list[str] = []
        self.columns: dict[str, Value] = {}
        self.rest: dict[str, str] = {}
        self.turns: list[Turn] = []
        self.grpc = False

    def frame(self, kind: int, stream: int) -> None:
        """List a frame."""
        if len(self.ids) < MOST_FRAMES:
            self.ids.append(stream)
            self.types.append(kind)
            self.texts.append(f"{NAMES[kind] if kind < 10 else kind}[{stream}]")

    def field(self, name: str, value: str) -> None:
        """Put a header field into its column."""
        item: int | str = value
        column = TEXT_COLUMNS.get(name)
        if column is None:
            if not value.isascii() or not value.isdigit() or len(value) > 4:
                return
            column, item = NUMBER_COLUMNS[name], int(value)
        values: list[Any] = self.columns.setdefault(column, [])  # type: ignore[assignment]
        if len(values) < MOST_FRAMES:
            values.append(item)

    def turn(self, turn: Turn) -> None:
        """Add half a call."""
        if len(self.turns) < MOST_FRAMES:
            self.turns.append(turn)

    def summary(self) -> Summary:
        """The whole."""
        if self.ids:
            self.columns["http2_streamid"], self.columns["http2_type"] = self.ids, self.types
        info = listed(self.texts, separator=", ")
        return Summary("gRPC" if self.grpc else "HTTP2", info, self.columns, self.rest, tuple(self.turns))


def fits(kind: int, length: int, stream: int) -> bool:
    """Whether these can be the header of a frame."""
    shape = SHAPES.get(kind)
    if shape is None or not shape[0] <= length <= shape[1] or stream >> 31:
        return False
    return (shape[3] is None or shape[3] == bool(stream)) and (kind != SETTINGS or length % 6 == 0)


def chained(data: bytes) -> bool:
    """Whether a payload is frames from its first byte on, the first one whole; flags that do not exist count as junk
    here, though a receiver has to ignore them (RFC 9113 section 4.1)."""
    at, whole = 0, 0
    while at + 9 <= len(data) and whole < 4:
        word, flags, stream = _frame(data, at)
        kind, length = word & 255, word >> 8
        if not fits(kind, length, stream) or flags & ~SHAPES[kind][2] or length > 16_384:
            return False
        at += 9 + length
        whole += at <= len(data)
    return whole > 0


def is_grpc(content_type: str) -> bool:
    """gRPC itself; gRPC-Web has its trailers in the body and counts as HTTP."""
    return content_type.startswith("application/grpc") and content_type[16:17] in ("", "+", ";")


def grpc_name(code: str) -> str:
    """The name of a grpc-status."""
    number = int(code) if code.isascii() and code.isdigit() and len(code) < 5 else -1
    return GRPC_CODES[number] if 0 <= number < len(GRPC_CODES) else code[:16]


class Http2Parser:
    """HTTP/2 and gRPC."""

    name = "HTTP2"
    transports = frozenset((TCP,))
    stateful = True
    signs = Signs((0, PREFACE[0]))

    def probe(self, heads: Heads) -> Mask:
        """The preface, or a frame that fits its payload."""
        first, flags = heads.first, heads.first[:, 4]
        preface = (first[:, :14] == np.frombuffer(PREFACE[:14], dtype=np.uint8)).all(axis=1)
        size, kind, stream = heads.word(0, 3).astype(np.int64), first[:, 3], heads.word(5, 4)
        inside = (9 + size <= heads.length) & (heads.length >= 9)
        control = (stream == 0) & (
            ((kind == SETTINGS) & (size % 6 == 0) & (size <= 60) & (flags <= 1))
            | ((kind == PING) & (size == 8) & (flags <= 1))
            | ((kind == GOAWAY) & (size >= 8) & (size < 1024) & (flags == 0))
            | ((kind == WINDOW_UPDATE) & (size == 4) & (flags == 0))
        )
        whole = (9 + size == heads.length) & (kind == DATA) & (flags & 0xF6 == 0) & (size > 0)
        block = (kind == HEADERS) & (flags & 0xD2 == 0) & (size > 0)
        small = (kind == WINDOW_UPDATE) & (size == 4) & (flags == 0) | (kind == RST_STREAM) & (size == 4) & (flags == 0)
        of_stream = (stream > 0) & (stream < 1 << 24) & (size <= 16_384) & (whole | block | small)
        claimed: Mask = preface | (inside & (control | of_stream))
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read one segment; None for one in which no frame begins and no field ends."""
        state = self._state(payload, side, conn)
        if state is None:
            return None
        data = state.take(conn, side, payload)
        if not data:
            return None
        if not state.synced[side] and not data.startswith(PREFACE[:14]) and not chained(data):
            return None
        state.synced[side] = True
        said = _Said()
        self._frames(data, side, conn, said)
        return said.summary() if said.texts or said.columns or said.turns or said.rest else None

    def _state(self, payload: bytes, side: int, conn: Conn) -> _State | None:
        """The connection's state, new where it begins here; None where this is not HTTP/2."""
        known = conn.state if isinstance(conn.state, _State) else None
        begins = payload.startswith(PREFACE[:14]) and (known is None or not known.skip[side])
        if begins or (known is None and chained(payload)):
            conn.state = known = _State(begins)
            conn.pending[0].clear()
            conn.pending[1].clear()
        return known

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut: the header table is no longer known, frames are looked for anew."""
        if isinstance(conn.state, _State):
            conn.state.lost(conn, side)

    def _frames(self, data: bytes, side: int, conn: Conn, said: _Said) -> None:
        state: _State = conn.state
        at = 0
        if data.startswith(PREFACE[:14]):
            said.texts.append("Magic")
            at = len(PREFACE)
        while at + 9 <= len(data):
            word, flags, stream = _frame(data, at)
            kind, length = word & 255, word >> 8
            if not fits(kind, length, stream):
                self._broken(conn, side, said)
                return
            end = at + 9 + length
            if not state.listed[side]:
                said.frame(kind, stream)
            state.listed[side] = False
            if end > len(data) and kind in WAITED:
                state.listed[side] = conn.keep(side, data[at:])
                if not state.listed[side]:
                    self._broken(conn, side, said)
                return
            if kind in BLOCKS:
                try:
                    self._block(state, side, kind, flags, stream, data[at + 9 : end], said)
                except Broken:
                    self._broken(conn, side, said)
                    return
            else:
                self._other(state, side, kind, flags, stream, data[at + 9 : end], said)
            at = end
        state.leave(conn, side, data, at)

    def _broken(self, conn: Conn, side: int, said: _Said) -> None:
        """The bytes make no sense any more: forget what later ones would be read with, and say so."""
        self.lost(conn, side)
        said.rest["nodetap.l7.lost"] = "1"

    def _block(self, state: _State, side: int, kind: int, flags: int, stream: int, body: bytes, said: _Said) -> None:
        """A HEADERS, PUSH_PROMISE or CONTINUATION frame. Raises Broken."""
        open_block = state.blocks[side]
        if kind == CONTINUATION:
            if open_block is None or open_block.stream != stream:
                return  # its beginning was not seen; the fields that follow would not be whole
            block = open_block
        else:
            block = _Block(stream if kind == HEADERS else 0)
            body = _bare(body, flags, kind)
        decoder = state.fields[side]
        unknown, coded = decoder.unknown, block.rest + body
        fields, used = decoder.read(coded)
        block.rest = coded[used:]
        if (flags & END_HEADERS and block.rest) or len(block.rest) > 16_384:
            raise Broken
        if decoder.unknown > unknown:
            block.partial = True
            said.rest["nodetap.hpack"] = "incomplete"
        self._fields(block, fields, said)
        if kind != PUSH_PROMISE and block.stream:
            self._call(state, block, bool(flags & END_STREAM), said)
        state.blocks[side] = None if flags & END_HEADERS else block

    def _fields(self, block: _Block, fields: list[Field], said: _Said) -> None:
        for name, value in fields:
            block.fields.setdefault(name, value)
            said.field(name, value)
        if fields and 0 < len(said.texts) <= 8 and (text := _line(block.fields)):
            said.texts[-1] += f": {text}"

    def _call(self, state: _State, block: _Block, ends: bool, said: _Said) -> None:
        """The turn that a header block is, once it is known."""
        fields, stream = block.fields, block.stream
        known = state.streams.get(stream, 0)
        if is_grpc(fields.get("content-type", "")) or "grpc-status" in fields:
            known |= GRPC
            state.grpc = True
        elif state.grpc and block.partial and "content-type" not in fields:
            known |= GRPC
        if ":method" in fields:
            if not block.said:
                block.said = True
                path = fields.get(":path", "").partition("?")[0]
                operation = path if known & GRPC else f"{fields[':method']} {path}".rstrip()
                said.turn(Turn(True, operation, key=stream))
        elif not known & ANSWERED:
            turn = _answer(fields, stream, bool(known & GRPC), ends)
            if turn is not None:
                known |= ANSWERED
                said.turn(turn)
        said.grpc |= bool(known & GRPC)
        remember(state.streams, stream, known, MOST_STREAMS)
        if ends and ":method" not in fields:
            del state.streams[stream]

    def _other(self, state: _State, side: int, kind: int, flags: int, stream: int, body: bytes, said: _Said) -> None:
        known = state.streams.get(stream, 0)
        if kind == DATA:
            said.grpc |= bool(known & GRPC)
            if flags & END_STREAM and known & ANSWERED:
                state.streams.pop(stream, None)
        elif kind == RST_STREAM and len(body) == 4:
            said.grpc |= bool(known & GRPC)
            code = _word(body)[0]
            said.rest["http2.rst_stream.error"] = str(code)
            if state.streams.pop(stream, ANSWERED) & ANSWERED == 0:
                name = ERRORS[code] if code < len(ERRORS) else str(code)
                said.turn(Turn(False, status=name, error=code != 0, key=stream))
        elif kind == GOAWAY and len(body) >= 8:
            said.rest["http2.goaway.error"] = str(_word(body, 4)[0])


def _bare(body: bytes, flags: int, kind: int) -> bytes:
    """A header block fragment without padding, priority and promised stream. Raises Broken."""
    start, end = 0, len(body)
    if flags & PADDED:
        if not body:
            raise Broken
        start, end = 1, end - body[0]
    if kind == PUSH_PROMISE:
        start += 4
    elif flags & PRIORITIZED:
        start += 5
    if start > end:
        raise Broken
    return body[start:end]


def _line(fields: dict[str, str]) -> str:
    """A header block in a few words: method and path without its query, or the status."""
    method = fields.get(":method")
    if method is None:
        return fields.get(":status", "")
    return f"{method} {fields.get(':path', '').partition('?')[0][:200]}".rstrip()


def _answer(fields: dict[str, str], stream: int, grpc: bool, ends: bool) -> Turn | None:
    """The response that a header block is: of HTTP with its status, of gRPC with its trailers."""
    code = fields.get("grpc-status")
    if grpc and code is not None:
        return Turn(False, status=grpc_name(code), error=code != "0", key=stream)
    status = fields.get(":status", "")[:3]
    if grpc and ends and not status:
        return Turn(False, key=stream)  # trailers whose fields are not known
    if not status or status < "200" or (grpc and not ends and status == "200"):
        return None
    return Turn(False, status=status, error=status >= "400", key=stream)


PARSER = Http2Parser()
