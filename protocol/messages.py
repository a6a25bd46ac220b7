"""Every message of the link, as frozen dataclasses. `MESSAGES` is the table: type word, class, who sends it.

    agent                                   hub
      | Hello ------------------------------> |   versions, who I am, which epochs I hold batches of
      | <------------------- Welcome / Refuse |   version, session, store, what you have of mine, window
      | Batch, Tombstone -------------------> |
      | <-------------------------------- Ack |   durable: watermark, ranges above it, window
      | <----------------------------- Reject |   this batch cannot be taken: code
      | Status, Echo -----------------------> |   state, level, books; a question put behind the ingest queue
      | <-------------------------- EchoReply |
      | <-------------------------------- Ask |   a question of people to the agent itself
      | Answer -----------------------------> |
      | <------------------------------ Fetch |   the next part of the raw frames that match a filter
      | Fetched ----------------------------> |
      | <-------------------------- Configure |   what to capture and how much of it to tell from now on
      | Configured -------------------------> |
      | <------------------------------ Drain |   the hub is going: finish here, go elsewhere
      | Bye --------------------------------> |   all is acknowledged or counted; I leave

A field's type is checked when a message is read; what a field may hold beyond that is checked here, when it is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from protocol.errors import WrongMessage
from protocol.ledger import is_reason
from protocol.limits import (
    MAX_DETAIL,
    MAX_FETCH,
    MAX_FILTER,
    MAX_HELD,
    MAX_NAME,
    MAX_RANGES,
    MAX_RAW,
    MAX_RETRY,
    MAX_ROWS,
    MAX_STRING,
    MAX_WORD,
)
from protocol.schema import TABLES

Held: TypeAlias = "list[list[int]]"
"""Ranges `[first, last]` above a watermark."""
Positions: TypeAlias = "dict[int, list[Any]]"
"""Per epoch `[watermark, [[first, last], ...]]`."""

_U64, _I63 = 1 << 64, 1 << 63
_PLAIN_VALUES = 1_024  # values of a ledger or an evidence map, all levels


def _check(condition: bool, detail: str, code: str = "bad_key") -> None:
    if not condition:
        raise WrongMessage(code, detail)


def _is_u64(value: object) -> bool:
    return type(value) is int and 0 <= value < _U64


def _check_numbers(**numbers: int) -> None:
    """Counts and clocks that others store as Int64."""
    for name, number in numbers.items():
        _check(0 <= number < _I63, f"{name} is out of bounds")


def _check_words(limit: int, **words: str) -> None:
    for name, word in words.items():
        _check(len(word) <= limit and word.isprintable(), f"{name} is not at most {limit} printable characters")


def _check_held(held: Any) -> None:
    fine = (
        isinstance(held, list)
        and len(held) <= MAX_HELD
        and all(isinstance(r, list) and len(r) == 2 and all(map(_is_u64, r)) and 1 <= r[0] <= r[1] for r in held)
    )
    _check(fine, "held is not a list of ranges")


def _check_plain(values: Any) -> None:
    """A map that JSON can show: string keys; numbers, strings, lists and such maps as values; not many of them."""
    todo, known = [values], 1
    while todo:
        value = todo.pop()
        if value is None or isinstance(value, int):  # as most are
            continue
        if isinstance(value, dict):
            _check(all(isinstance(key, str) and len(key) <= MAX_DETAIL for key in value), "a key is not a word")
        if isinstance(value, dict | list):
            todo += value.values() if isinstance(value, dict) else value
            known += len(value)
            _check(known <= _PLAIN_VALUES, f"a map of more than {_PLAIN_VALUES} values", "too_large")
        elif isinstance(value, float):
            _check(math.isfinite(value), "a number is not finite")
        elif isinstance(value, str):
            _check(len(value) <= MAX_STRING // 4, "a string in a map is too long")  # in characters of up to 4 bytes
        else:
            _check(False, f"a {type(value).__name__} in a map of plain values")


def _check_retry(seconds: float) -> None:
    _check(0 <= seconds <= MAX_RETRY, f"retry_after is not 0 to {MAX_RETRY} seconds")  # NaN is not either


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent's first word. `streams` are the epochs it holds unacknowledged batches of, the run's own included."""

    versions: list[int]
    agent: str
    node: str
    epoch: int
    streams: list[int]
    software: str = ""
    source: str = "live"  # live | replay
    wall: int = 0  # the agent's clock, ns since 1970
    stores: list[str] = field(default_factory=list)  # stores that may hold batches in doubt
    connection: str = ""  # the agent's id of this connection, in every log line of both sides
    answers: list[str] = field(default_factory=list)  # what it may be asked about; nothing else is

    def __post_init__(self) -> None:
        _check(0 < len(self.agent) <= MAX_NAME, f"an agent's name has 1 to {MAX_NAME} characters")
        _check(len(self.node) <= MAX_NAME, f"a node's name has at most {MAX_NAME} characters")
        _check(self.agent.isprintable() and self.node.isprintable(), "a name is not printable")
        _check(len(self.versions) <= 64 and all(map(_is_u64, self.versions)), "versions are integers")
        _check(len(self.streams) <= 1024 and all(_is_u64(e) for e in self.streams), "streams are epochs")
        _check(_is_u64(self.epoch), "an epoch has 64 bits")
        _check(len(self.stores) <= 64 and all(isinstance(s, str) for s in self.stores), "stores are strings")
        _check(all(len(s) <= MAX_NAME for s in self.stores), f"a store's id has at most {MAX_NAME} characters")
        _check_words(MAX_NAME, software=self.software, connection=self.connection)
        _check(len(self.answers) <= 64 and all(isinstance(a, str) for a in self.answers), "answers are words")
        _check(all(len(a) <= MAX_WORD for a in self.answers), f"a word has at most {MAX_WORD} characters")
        _check_numbers(wall=self.wall)
        _check(self.source in ("live", "replay"), "a source is live or replay")


@dataclass(frozen=True, slots=True)
class Welcome:
    """The hub's answer: the version chosen, this connection's session, what it holds, how much may be outstanding."""

    version: int
    session: int
    store: str
    positions: Positions
    window_batches: int
    window_bytes: int
    software: str = ""
    wall: int = 0  # the hub's clock, ns since 1970
    api_port: int = 0  # where people ask this hub: not to be captured, as the link is not; 0 where it does not say

    def __post_init__(self) -> None:
        _check(0 <= self.api_port < 1 << 16, "a port has 16 bits")
        _check_words(MAX_NAME, store=self.store, software=self.software)
        _check_numbers(version=self.version, session=self.session, wall=self.wall)
        _check_numbers(window_batches=self.window_batches, window_bytes=self.window_bytes)
        for epoch, position in self.positions.items():
            _check(_is_u64(epoch) and isinstance(position, list) and len(position) == 2, "a position is wrong")
            _check(_is_u64(position[0]), "a watermark is wrong")
            _check_held(position[1])
        held = sum(len(position[1]) for position in self.positions.values())
        _check(held <= MAX_RANGES, f"{held} ranges held, the limit is {MAX_RANGES}", "too_large")


@dataclass(frozen=True, slots=True)
class Refuse:
    """The hub takes this connection no further. `retry_after` in seconds, 0 where it is the agent's to choose."""

    code: str
    detail: str = ""
    retry_after: float = 0.0

    def __post_init__(self) -> None:
        _check_words(MAX_WORD, code=self.code)
        _check_retry(self.retry_after)
        object.__setattr__(self, "detail", self.detail[:MAX_DETAIL])


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of one table. `body` is the msgpack map of its columns, compressed where `zstd` is 1.

    `packets` are the packets its rows stand for, `flow_only` those of them without a row of their own;
    `ledger` is the agent's Report at the moment it was sealed; `first` and `last` its time range, ns since 1970.
    `behind` names for interfaces of its rows the address behind them: a pod's, of the host's end of a veth pair.
    """

    agent: str
    epoch: int
    seq: int
    kind: str
    rows: int
    packets: int
    flow_only: int
    first: int
    last: int
    raw_size: int
    zstd: int
    body: bytes
    ledger: dict[str, Any] = field(default_factory=dict)
    behind: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_place(self.agent, self.epoch, self.seq)
        _check_plain(self.ledger)
        _check_plain(self.behind)
        _check(self.zstd in (0, 1), "zstd is 0 or 1")
        _check(self.kind in TABLES, f"no table {self.kind[:40]!r}")
        _check(0 < self.rows <= MAX_ROWS, f"a batch has 1 to {MAX_ROWS} rows", "too_large")
        _check(0 <= self.raw_size <= MAX_RAW, f"columns of {self.raw_size} bytes", "too_large")
        _check_extent(self)


def _check_extent(message: Batch | Tombstone) -> None:
    _check(0 <= message.flow_only <= message.packets < _I63, "packets are out of bounds")
    _check(-_I63 <= message.first <= message.last < _I63, "the time range is out of bounds")


def _check_place(agent: str, epoch: int, seq: int) -> None:
    _check(0 < len(agent) <= MAX_NAME and agent.isprintable(), f"an agent's name has 1 to {MAX_NAME} characters")
    _check(_is_u64(epoch), "an epoch has 64 bits")
    _check(0 < seq < _U64, "a batch's number is at least 1")


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Stands for a batch that will never come, or with kind `report` for no batch at all: only the books."""

    agent: str
    epoch: int
    seq: int
    kind: str  # the lost batch's table, or `report`
    packets: int = 0
    flow_only: int = 0
    first: int = 0
    last: int = 0
    reason: str = ""
    final: int = 0  # 1 in the last report of an orderly run
    ledger: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_place(self.agent, self.epoch, self.seq)
        _check_plain(self.ledger)
        _check(self.kind in TABLES or self.kind == "report", f"no table {self.kind[:40]!r}")
        _check_extent(self)
        _check(self.reason == "" or is_reason(self.reason), f"a reason is one word of at most {MAX_WORD} letters")
        _check(self.final in (0, 1), "final is 0 or 1")


@dataclass(frozen=True, slots=True)
class Ack:
    """What is durable of one epoch. `kept` are tombstones that came for a batch which is stored: the batch stays."""

    epoch: int
    watermark: int
    held: Held = field(default_factory=list)
    window_batches: int = 0
    window_bytes: int = 0
    kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check(_is_u64(self.epoch) and _is_u64(self.watermark), "an acknowledgement is out of bounds")
        _check_held(self.held)
        _check(len(self.kept) <= MAX_RANGES and all(map(_is_u64, self.kept)), "kept are batch numbers")
        _check_numbers(window_batches=self.window_batches, window_bytes=self.window_bytes)


@dataclass(frozen=True, slots=True)
class Reject:
    """One batch cannot be taken. With `final` 1 it was quarantined: answer with a tombstone."""

    epoch: int
    seq: int
    code: str
    detail: str = ""
    final: int = 0

    def __post_init__(self) -> None:
        _check(_is_u64(self.epoch) and _is_u64(self.seq), "a batch's place has 64 bits")
        _check_words(MAX_WORD, code=self.code)
        _check(self.final in (0, 1), "final is 0 or 1")
        object.__setattr__(self, "detail", self.detail[:MAX_DETAIL])


@dataclass(frozen=True, slots=True)
class Status:
    """The agent's state between batches: shown, not stored."""

    state: str
    level: str = "packets"
    outbox_bytes: int = 0
    outbox_batches: int = 0
    wall: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    link: dict[str, Any] = field(default_factory=dict)  # its quality, as numbers for people

    def __post_init__(self) -> None:
        _check_words(MAX_WORD, state=self.state, level=self.level)
        _check_numbers(outbox_bytes=self.outbox_bytes, outbox_batches=self.outbox_batches, wall=self.wall)
        _check_plain(self.evidence)
        _check_plain(self.ledger)
        _check_plain(self.link)


@dataclass(frozen=True, slots=True)
class Echo:
    """A question that goes through the hub's ingest queue and back."""

    id: int

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "an echo's number has 64 bits")


@dataclass(frozen=True, slots=True)
class EchoReply:
    """The echo came out of the ingest queue. `wall` is the hub's clock, ns since 1970."""

    id: int
    wall: int = 0

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "an echo's number has 64 bits")
        _check_numbers(wall=self.wall)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to the agent itself, `about` one of the words of its hello. After `within` seconds nobody waits."""

    id: int
    about: str
    within: float = 0.0

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "a question's number has 64 bits")
        _check_words(MAX_WORD, about=self.about)
        _check(0 <= self.within <= MAX_RETRY, f"within is not 0 to {MAX_RETRY} seconds")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the question `id`; or with `refused`, one word, why there is none, and `detail` for people."""

    id: int
    body: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "a question's number has 64 bits")
        _check_plain(self.body)
        _check_words(MAX_WORD, refused=self.refused)
        object.__setattr__(self, "detail", self.detail[:MAX_DETAIL])


PCAP = "pcap"
"""The word in a hello's `answers` of agents that record raw frames."""
CAPTURE = "capture"
"""The word of agents that give raw frames away as they capture them."""
MAX_LIVE = 10_000
"""Milliseconds that an agent may be told to wait for frames."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Part `part` (from 1) of the raw frames that match; to agents that say so in their hello (`PCAP`).

    The hub asks for one part after the other, and only when it has room: `size` bytes, `frames` frames, but at least
    one. The first part begins what later ones go on with, by `id`; part 0 ends it early. After `within` seconds nobody
    waits. `since` and `until` (exclusive) are packet time.

    With `live`, to agents that say `CAPTURE`, the frames are those captured from the first part on, whatever their
    time: a part goes out once there are some, and without any after `live` milliseconds. Each one asked for keeps the
    capture going for `within` seconds and a little more.
    """

    id: int
    part: int
    filter: str = ""
    since: int = -_I63
    until: int = _I63 - 1
    size: int = MAX_FETCH
    frames: int = _I63 - 1
    within: float = 0.0
    live: int = 0

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "a question's number has 64 bits")
        _check_numbers(part=self.part, frames=self.frames)
        _check(0 <= self.live <= MAX_LIVE, f"live is not 0 to {MAX_LIVE} milliseconds")
        _check(len(self.filter) <= MAX_FILTER, f"a filter has at most {MAX_FILTER} characters")
        _check(-_I63 <= self.since < _I63 and -_I63 <= self.until < _I63, "a time is out of bounds")
        _check(0 < self.size <= MAX_FETCH, f"size is not 1 to {MAX_FETCH} bytes")
        _check(0 <= self.within <= MAX_RETRY, f"within is not 0 to {MAX_RETRY} seconds")


@dataclass(frozen=True, slots=True)
class Fetched:
    """One part of the frames, or with `refused`, one word, why there is none.

    `body` holds `frames` frames in order of time (`protocol.parts`), on `interfaces`, each `[name, link type]`. Nothing
    before `reached` comes later; with `last` 1 nothing at all. `gaps` are `[first, last, frames, reason]`: captured
    between these times and not there, -1 where nobody counted. `kept` is the time of the oldest frame that is there,
    `overwritten` that of the newest one that made room, 0 where there is none. Of a live capture `kept` is when it
    began, and `reached` a promise as good as clocks are: a frame may come a little later.
    """

    id: int
    part: int
    frames: int = 0
    body: bytes = b""
    interfaces: list[Any] = field(default_factory=list)
    reached: int = 0
    last: int = 0
    gaps: list[Any] = field(default_factory=list)
    kept: int = 0
    overwritten: int = 0
    refused: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "a question's number has 64 bits")
        _check_numbers(part=self.part, frames=self.frames)
        for name in ("reached", "kept", "overwritten"):
            _check(-_I63 <= getattr(self, name) < _I63, f"{name} is out of bounds")
        _check(self.last in (0, 1), "last is 0 or 1")
        _check(all(map(_is_face, self.interfaces)), "interfaces are names with link types")
        _check(all(map(_is_gap, self.gaps)), "gaps are [first, last, frames, reason]")
        _check_words(MAX_WORD, refused=self.refused)
        object.__setattr__(self, "detail", self.detail[:MAX_DETAIL])


def _is_face(value: Any) -> bool:
    if not isinstance(value, list) or [type(item) for item in value] != [str, int]:
        return False
    return len(value[0]) <= MAX_NAME and 0 <= value[1] < 1 << 16


def _is_gap(value: Any) -> bool:
    if not isinstance(value, list) or [type(item) for item in value] != [int, int, int, str]:
        return False
    first, last, frames, reason = value
    return -_I63 <= first <= last < _I63 and -1 <= frames < _I63 and len(reason) <= MAX_WORD and reason.isprintable()


CONFIGURE = "configure"
"""The word of agents whose settings the hub may change while they run."""


def _check_settings(settings: Any) -> None:
    """Few words with short texts; which there are is for the agent to say."""
    _check(len(settings) <= 16, "more than 16 settings")
    fine = all(isinstance(k, str) and isinstance(v, str) and len(k) <= MAX_WORD for k, v in settings.items())
    _check(fine, "settings are words with texts")
    _check(all(len(value) <= MAX_FILTER for value in settings.values()), f"a setting is longer than {MAX_FILTER}")


@dataclass(frozen=True, slots=True)
class Configure:
    """What is to hold from now on, `filter`, `detail` and `l7`; what is not named is as the agent was started."""

    id: int
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "a question's number has 64 bits")
        _check_settings(self.settings)


@dataclass(frozen=True, slots=True)
class Configured:
    """What holds now; with `refused`, one word, why nothing was changed, and `detail` for people."""

    id: int
    settings: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        _check(_is_u64(self.id), "a question's number has 64 bits")
        _check_settings(self.settings)
        _check_words(MAX_WORD, refused=self.refused)
        object.__setattr__(self, "detail", self.detail[:MAX_DETAIL])


@dataclass(frozen=True, slots=True)
class Drain:
    """The hub is shutting down; `retry_after` seconds until it may be back."""

    retry_after: float = 0.0

    def __post_init__(self) -> None:
        _check_retry(self.retry_after)


@dataclass(frozen=True, slots=True)
class Bye:
    """The agent leaves in good order."""

    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", self.reason[:MAX_DETAIL])


Message: TypeAlias = (
    "Hello | Welcome | Refuse | Batch | Tombstone | Ack | Reject | Status | Echo | EchoReply | Ask | Answer | Fetch"
    "| Fetched | Configure | Configured | Drain | Bye"
)

MESSAGES: dict[str, tuple[type[Any], str]] = {
    "hello": (Hello, "agent"),
    "welcome": (Welcome, "hub"),
    "refuse": (Refuse, "hub"),
    "batch": (Batch, "agent"),
    "tombstone": (Tombstone, "agent"),
    "ack": (Ack, "hub"),
    "reject": (Reject, "hub"),
    "status": (Status, "agent"),
    "echo": (Echo, "agent"),
    "echo_reply": (EchoReply, "hub"),
    "ask": (Ask, "hub"),
    "answer": (Answer, "agent"),
    "fetch": (Fetch, "hub"),
    "fetched": (Fetched, "agent"),
    "configure": (Configure, "hub"),
    "configured": (Configured, "agent"),
    "drain": (Drain, "hub"),
    "bye": (Bye, "agent"),
}
"""Type word -> (class, sender)."""
