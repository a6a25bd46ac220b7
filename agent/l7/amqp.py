"""AMQP 0-9-1 (RabbitMQ): the frames of a segment by class and method, names of exchanges, routing keys and queues."""

from __future__ import annotations

from struct import Struct

import numpy as np

from agent.l7 import TCP, Conn, Heads, Signs, Summary, Turn
from agent.l7.stream import Mask, Passing, found_in, listed, remember

PORT = 5672
MOST_FRAME = 1 << 24
MOST_CHANNELS = 256
WAIT = 2048
"""A frame of a method up to this size that is not whole is waited for; of a longer one its beginning is read."""

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE

_NAMED = {
    (10, "Connection"): "10 Start 11 Start-Ok 20 Secure 21 Secure-Ok 30 Tune 31 Tune-Ok 40 Open 41 Open-Ok 50 Close "
    "51 Close-Ok 60 Blocked 61 Unblocked 70 Update-Secret 71 Update-Secret-Ok",
    (20, "Channel"): "10 Open 11 Open-Ok 20 Flow 21 Flow-Ok 40 Close 41 Close-Ok",
    (30, "Access"): "10 Request 11 Request-Ok",
    (40, "Exchange"): "10 Declare 11 Declare-Ok 20 Delete 21 Delete-Ok 30 Bind 31 Bind-Ok 40 Unbind 51 Unbind-Ok",
    (50, "Queue"): "10 Declare 11 Declare-Ok 20 Bind 21 Bind-Ok 30 Purge 31 Purge-Ok 40 Delete 41 Delete-Ok "
    "50 Unbind 51 Unbind-Ok",
    (60, "Basic"): "10 Qos 11 Qos-Ok 20 Consume 21 Consume-Ok 30 Cancel 31 Cancel-Ok 40 Publish 50 Return 60 Deliver "
    "70 Get 71 Get-Ok 72 Get-Empty 80 Ack 90 Reject 100 Recover-Async 110 Recover 111 Recover-Ok 120 Nack",
    (85, "Confirm"): "10 Select 11 Select-Ok",
    (90, "Tx"): "10 Select 11 Select-Ok 20 Commit 21 Commit-Ok 30 Rollback 31 Rollback-Ok",
}


def _methods() -> dict[int, str]:
    names: dict[int, str] = {}
    for (number, family), text in _NAMED.items():
        words = text.split()
        for method, name in zip(words[::2], words[1::2], strict=True):
            names[number << 16 | int(method)] = f"{family}.{name}"
    return names


NAMES = _methods()
"""Class and method in one word -> name."""
_WORDS = np.array(sorted(NAMES), dtype=np.uint64)
CLASSES = frozenset(word >> 16 for word in NAMES)
CODES = {name: word for word, name in NAMES.items()}
ANSWERS = {word: name.removesuffix("-Ok") for word, name in NAMES.items() if name.endswith("-Ok")}
ANSWERS[CODES["Basic.Get-Empty"]] = "Basic.Get"
OF_SERVER = frozenset(("Connection.Start", "Connection.Secure", "Connection.Tune", "Channel.Flow"))
ASKED = frozenset(ANSWERS.values()) - OF_SERVER - {"Connection.Close", "Channel.Close"}
"""Methods of the client that the server answers."""
CLOSES = frozenset((CODES["Connection.Close"], CODES["Channel.Close"]))
ROUTED = {CODES["Basic.Publish"]: 2, CODES["Basic.Return"]: -2, CODES["Basic.Deliver"]: -1, CODES["Basic.Get-Ok"]: 9}
"""Methods with exchange and routing key: bytes before them, where that is a fixed number."""

QUEUED = {CODES[f"Queue.{name}"]: 2 for name in ("Declare", "Bind", "Unbind", "Purge", "Delete")}
QUEUED |= {CODES["Queue.Declare-Ok"]: 0, CODES["Basic.Get"]: 2, CODES["Basic.Consume"]: 2}
"""Methods with a queue's name: bytes before it."""

_frame = Struct(">BHI").unpack_from  # type, channel, size
_word = Struct(">I").unpack_from
_short = Struct(">H").unpack_from


class _State(Passing):
    """What each channel waits for; whether this is another version of AMQP."""

    __slots__ = ("open", "other")

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[int, str] = {}
        self.other = False


class AmqpParser:
    """AMQP 0-9-1."""

    name = "AMQP"
    transports = frozenset((TCP,))
    stateful = True
    signs = Signs((METHOD, HEADER, BODY, HEARTBEAT, 65))

    def probe(self, heads: Heads) -> Mask:
        """The protocol header, a frame of a known method, a content header, a heartbeat; bodies on AMQP's port only."""
        first = heads.first
        begins = (first[:, :4] == np.frombuffer(b"AMQP", dtype=np.uint8)).all(axis=1) & (heads.length == 8)
        kind, size = first[:, 0], heads.word(3, 4).astype(np.int64)
        sane = (heads.length >= 8) & (size <= MOST_FRAME)
        word = heads.word(7, 4)
        method = (kind == METHOD) & found_in(_WORDS, word) & (size >= 4)
        header = (kind == HEADER) & (word == 60 << 16) & (size >= 14) & (heads.length >= 16)
        beat = (kind == HEARTBEAT) & (heads.word(1, 7) == END)
        body = (kind == BODY) & (size > 0) & heads.port(PORT)
        claimed: Mask = begins | (sane & (method | header | beat | body))
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read the frames that begin in one segment."""
        if not isinstance(conn.state, _State):
            conn.state = _State()
        state: _State = conn.state
        if len(payload) == 8 and payload.startswith(b"AMQP"):
            state.other = payload[4:] != b"\0\0\x09\1"
            version = "-".join(str(byte) for byte in payload[5:])
            return Summary("AMQP", f"Protocol-Header {version}", rest={"amqp.version": version})
        data = b"" if state.other else state.take(conn, side, payload)
        said = _Said()
        at, size = 0, len(data)
        while at + 7 <= size:
            kind, channel, length = _frame(data, at)
            end = at + 8 + length
            if kind not in (METHOD, HEADER, BODY, HEARTBEAT) or length > MOST_FRAME:
                state.lost(conn, side)
                return said.summary()
            if end <= size and data[end - 1] != END:
                state.lost(conn, side)
                return said.summary()
            if end > size and kind != BODY and length <= WAIT:
                break
            said.frame(state, kind, channel, data[at + 7 : min(end - 1, at + 7 + WAIT)])
            at = end
        state.leave(conn, side, data, at)
        return said.summary()

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut."""
        if isinstance(conn.state, _State):
            conn.state.lost(conn, side)


class _Said:
    """What one segment says, as it is gathered."""

    __slots__ = ("rest", "texts", "turns")

    def __init__(self) -> None:
        self.rest: dict[str, str] = {}
        self.texts: list[str] = []
        self.turns: list[Turn] = []

    def summary(self) -> Summary | None:
        """The whole; None where no frame begins."""
        return Summary("AMQP", listed(self.texts), rest=self.rest, turns=tuple(self.turns)) if self.texts else None

    def frame(self, state: _State, kind: int, channel: int, body: bytes) -> None:
        """One frame, of which `body` may be only the beginning."""
        if kind == METHOD and len(body) >= 4:
            self._method(state, channel, body)
        elif kind == HEADER:
            self.texts.append(f"Content-Header{_content_type(body)}")
        else:
            self.texts.append("Content-Body" if kind == BODY else "Heartbeat")
        if len(self.texts) == 1:
            self.rest["amqp.type"], self.rest["amqp.channel"] = str(kind), str(channel)

    def _method(self, state: _State, channel: int, body: bytes) -> None:
        word = _word(body)[0]
        name = NAMES.get(word, f"{word >> 16}.{word & 0xFFFF}")
        text = name
        if "amqp.method.class" not in self.rest:
            self.rest["amqp.method.class"], self.rest["amqp.method.method"] = str(word >> 16), str(word & 0xFFFF)
            self.rest["nodetap.operation"] = name
        if word in ROUTED:
            text += self._route(body, ROUTED[word])
        elif word in QUEUED:
            queue = _string(body, 4 + QUEUED[word])[0]
            self.rest.setdefault("amqp.method.arguments.queue", queue)
            text += f" q={queue}"
        if len(self.turns) < 64:
            self._call(state, channel, word, name, body)
        self.texts.append(text)

    def _route(self, body: bytes, before: int) -> str:
        """Exchange and routing key, as Wireshark prints them."""
        at = 4 + before
        if before == -1:  # a consumer's tag, the delivery's tag, redelivered
            at = 4 + 1 + (body[4] if len(body) > 4 else 0) + 9
        elif before == -2:  # a code and a text
            at = 6 + 1 + (body[6] if len(body) > 6 else 0)
        exchange, at = _string(body, at)
        key, _ = _string(body, at)
        self.rest.setdefault("amqp.method.arguments.exchange", exchange)
        self.rest.setdefault("amqp.method.arguments.routing_key", key)
        return f" x={exchange} rk={key}"

    def _call(self, state: _State, channel: int, word: int, name: str, body: bytes) -> None:
        if name in ASKED:
            remember(state.open, channel, name, MOST_CHANNELS)
            self.turns.append(Turn(True, name, key=f"{channel} {name}"))
        elif (asked := ANSWERS.get(word, "")) in ASKED:
            if state.open.get(channel) == asked:
                del state.open[channel]
            self.turns.append(Turn(False, status=name.rpartition(".")[2], key=f"{channel} {asked}"))
        elif word in CLOSES and len(body) >= 6:
            code = _short(body, 4)[0]
            self.rest["amqp.method.arguments.reply_code"] = str(code)
            if code != 200 and (asked := state.open.pop(channel, "")):
                self.turns.append(Turn(False, status=str(code), error=True, key=f"{channel} {asked}"))


def _string(body: bytes, at: int) -> tuple[str, int]:
    """A short string as far as it is there, and the place behind it."""
    if at >= len(body):
        return "", at
    end = at + 1 + body[at]
    return body[at + 1 : end].decode("utf-8", "replace"), end


def _content_type(body: bytes) -> str:
    """The content type of a content header, where it has one."""
    if len(body) < 15 or not body[12] & 0x80:
        return ""
    return f" type={_string(body, 14)[0][:64]}"


PARSER = AmqpParser()
