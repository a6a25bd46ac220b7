"""MQTT 3.1, 3.1.1 and 5: packets, topics, quality of service, reason codes. No messages, no credentials."""

from __future__ import annotations

import numpy as np

from agent.l7 import TCP, Conn, Heads, Signs, Summary, Turn
from agent.l7.stream import Mask, Passing, listed, table_of

PORT = 1883
MOST_TOPIC = 1024
WAIT = 2048
"""A packet up to this size that is not whole is waited for; of a longer one its beginning is read."""

NAMES = (
    *("Reserved", "Connect Command", "Connect Ack", "Publish Message", "Publish Ack", "Publish Received"),
    *("Publish Release", "Publish Complete", "Subscribe Request", "Subscribe Ack", "Unsubscribe Request"),
    *("Unsubscribe Ack", "Ping Request", "Ping Response", "Disconnect Req", "Authentication Exchange"),
)
"""By packet type, as Wireshark names them."""
ACK_FIELDS = {2: "connack", 4: "puback", 5: "pubrec", 6: "pubrel", 7: "pubcomp", 9: "suback", 11: "unsuback"}

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK = range(1, 10)
UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(10, 16)
ASKS = {CONNECT: "CONNECT", SUBSCRIBE: "SUBSCRIBE", UNSUBSCRIBE: "UNSUBSCRIBE", PINGREQ: "PINGREQ"}
ANSWERS = {CONNACK: CONNECT, SUBACK: SUBSCRIBE, UNSUBACK: UNSUBSCRIBE, PINGRESP: PINGREQ}
ACKS = frozenset((PUBACK, PUBREC, PUBREL, PUBCOMP))
_PUBLISHES = (48 + dup * 8 + qos * 2 + retain for dup in (0, 1) for qos in (0, 1, 2) for retain in (0, 1))
FLAGS = table_of((16, 32, 64, 80, 98, 112, 130, 144, 162, 176, 192, 208, 224, 240, *_PUBLISHES))
"""First bytes that the standard allows."""


class _State(Passing):
    """The version that the client asked for; 0 where its CONNECT was not seen."""

    __slots__ = ("version",)

    def __init__(self) -> None:
        super().__init__()
        self.version = 0


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer and the place behind it; (-1, at) where it is not whole, (-2, at) where it is none."""
    value = 0
    for i in range(4):
        if at + i >= len(data):
            return -1, at
        byte = data[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    return -2, at


class MqttParser:
    """MQTT."""

    name = "MQTT"
    transports = frozenset((TCP,))
    stateful = True
    signs = Signs((16,), (PORT,))

    def probe(self, heads: Heads) -> Mask:
        """A CONNECT anywhere; on MQTT's port a packet whose type, flags and length fit."""
        first = heads.first.astype(np.int64)
        more = [first[:, i] >= 128 for i in range(1, 4)]
        size, width = first[:, 1] & 127, np.ones(len(first), dtype=np.int64)
        going = more[0]
        for i in range(2, 5):
            size, width = np.where(going, size | (first[:, i] & 127) << 7 * (i - 1), size), width + going
            going = going & (first[:, i] >= 128)
        whole = size + 1 + width
        named = np.zeros(len(first), dtype=bool)
        topic = np.zeros(len(first), dtype=bool)
        for at in (2, 3, 4, 5):
            name, long = heads.word(at, 6), heads.word(at, 2).astype(np.int64)
            here = width == at - 1
            named |= here & ((name == 0x00044D515454) | (name == 0x00064D514973))
            topic |= here & (long + 2 <= size) & (long <= MOST_TOPIC) & ((first[:, at + 2] >= 32) | (long == 0))
        connect = (first[:, 0] == 16) & named
        packet = FLAGS[heads.first[:, 0]] & (heads.length >= 2) & ~going
        small = (size <= 4) & (whole <= heads.length)
        fits = np.where(heads.first[:, 0] >> 4 == PUBLISH, topic, (whole == heads.length) | small)
        claimed: Mask = connect | (packet & fits & heads.port(PORT))
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read the packets that begin in one segment."""
        if not isinstance(conn.state, _State):
            conn.state = _State()
        state: _State = conn.state
        data = state.take(conn, side, payload)
        said = _Said(side)
        at, size = 0, len(data)
        while at + 2 <= size:
            length, start = _length(data, at + 1)
            if length == -1:
                break
            if length < 0 or not FLAGS[data[at]]:
                state.lost(conn, side)
                return said.summary()
            end = start + length
            if end > size and length <= WAIT:
                break
            said.packet(state, data[at], data[start : min(end, start + WAIT)])
            at = end
        state.leave(conn, side, data, at)
        return said.summary()

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut."""
        if isinstance(conn.state, _State):
            conn.state.lost(conn, side)


class _Said:
    """What one segment says, as it is gathered."""

    __slots__ = ("rest", "side", "texts", "turns")

    def __init__(self, side: int) -> None:
        self.side = side
        self.rest: dict[str, str] = {}
        self.texts: list[str] = []
        self.turns: list[Turn] = []

    def summary(self) -> Summary | None:
        """The whole; None where no packet begins."""
        info = listed(self.texts, separator=", ")
        return Summary("MQTT", info, rest=self.rest, turns=tuple(self.turns)) if self.texts else None

    def packet(self, state: _State, first: int, body: bytes) -> None:
        """One packet, of which `body` may be only the beginning."""
        kind = first >> 4
        text = NAMES[kind]
        self.rest.setdefault("mqtt.msgtype", str(kind))
        if kind == PUBLISH:
            text += self._publish(first, body)
        elif kind in (SUBSCRIBE, UNSUBSCRIBE, SUBACK, UNSUBACK) or kind in ACKS:
            text += self._numbered(state, kind, body)
        elif kind == CONNECT:
            state.version = _version(body)
            self.rest["mqtt.ver"] = str(state.version)
            self._ask("CONNECT", "CONNECT")
        elif kind == PINGREQ:
            self._ask("PINGREQ", "PINGREQ")
        elif kind == PINGRESP:
            self._answer("PINGREQ", None)
        elif kind == CONNACK and len(body) >= 2:
            self.rest["mqtt.connack.reason_code" if state.version == 5 else "mqtt.conack.val"] = str(body[1])
            self._answer("CONNECT", body[1])
        elif kind == DISCONNECT and body:
            self.rest["mqtt.disconnect.reason_code"] = str(body[0])
        self.texts.append(text)

    def _publish(self, first: int, body: bytes) -> str:
        """A message: its topic, and its number where it has one."""
        size = int.from_bytes(body[:2], "big")
        topic = body[2 : 2 + min(size, MOST_TOPIC)].decode("utf-8", "replace")
        qos = first >> 1 & 3
        self.rest.setdefault("mqtt.topic", topic)
        self.rest.setdefault("mqtt.qos", str(qos))
        if not qos or len(body) < 4 + size:
            return f" [{topic}]"
        number = int.from_bytes(body[2 + size : 4 + size], "big")
        self.rest.setdefault("mqtt.msgid", str(number))
        self._ask("PUBLISH", f"{self.side} {number}")
        return f" (id={number}) [{topic}]"

    def _numbered(self, state: _State, kind: int, body: bytes) -> str:
        """A packet that begins with a number: (un)subscriptions and acknowledgements."""
        if len(body) < 2:
            return ""
        number = int.from_bytes(body[:2], "big")
        self.rest.setdefault("mqtt.msgid", str(number))
        if kind in ASKS:
            topic = _topic(state, body)
            self.rest.setdefault("mqtt.topic", topic)
            self._ask(ASKS[kind], f"{ASKS[kind]} {number}")
            return f" (id={number}) [{topic}]" if kind == SUBSCRIBE else f" (id={number})"
        code = _reason(state, kind, body)
        if code is not None:
            name = (
                "mqtt.suback.qos" if kind == SUBACK and state.version != 5 else f"mqtt.{ACK_FIELDS[kind]}.reason_code"
            )
            self.rest.setdefault(name, str(code))
        if kind in ANSWERS:
            self._answer(f"{ASKS[ANSWERS[kind]]} {number}", code)
        elif kind in (PUBACK, PUBCOMP) or (kind == PUBREC and (code or 0) >= 128):
            self._answer(f"{1 - self.side} {number}", code)
        return f" (id={number})"

    def _ask(self, operation: str, key: str) -> None:
        if len(self.turns) < 64:
            self.turns.append(Turn(True, operation, key=key))

    def _answer(self, key: str, code: int | None) -> None:
        """An answer; a code from 128 on is a failure, in a CONNACK before MQTT 5 every code but 0."""
        if len(self.turns) < 64:
            failed = code is not None and (code >= 128 or (key == "CONNECT" and code > 0))
            self.turns.append(Turn(False, status=str(code or 0), error=failed, key=key))


def _version(body: bytes) -> int:
    """The protocol level of a CONNECT."""
    at = 2 + int.from_bytes(body[:2], "big")
    return body[at] & 127 if at < len(body) else 0


def _behind_properties(state: _State, body: bytes, at: int) -> int:
    """The place behind the properties that MQTT 5 has at `at`."""
    if state.version != 5:
        return at
    size, start = _length(body, at)
    return start + size if size >= 0 else len(body)


def _topic(state: _State, body: bytes) -> str:
    """The first topic of a subscription."""
    at = _behind_properties(state, body, 2)
    size = int.from_bytes(body[at : at + 2], "big")
    return body[at + 2 : at + 2 + min(size, MOST_TOPIC)].decode("utf-8", "replace")


def _reason(state: _State, kind: int, body: bytes) -> int | None:
    """The first reason code of an acknowledgement, where it has one."""
    at = _behind_properties(state, body, 2) if kind in (SUBACK, UNSUBACK) else 2
    return body[at] if at < len(body) else None


PARSER = MqttParser()
