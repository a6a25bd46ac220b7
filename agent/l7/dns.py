"""DNS messages (RFC 1035, 6891), and DNS, mDNS (RFC 6762) and LLMNR (RFC 4795) over UDP. Over TCP: `dns_tcp`.

Names are printed as tshark prints them: the root as `<Root>`, what cannot be shown escaped. A message that breaks off
or is wrong keeps what came before; a record is reported only when all of it is there. The texts of TXT records are
values and are left out; their names and types are there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from socket import AF_INET6, inet_ntoa, inet_ntop
from struct import Struct, error
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.l7 import UDP, Batch, Cells, Conn, Findings, Heads, Summary, Turn, Value
from agent.l7.text import printed

HEADER = 12
RECORDS = 255  # most questions and records read of one message; a list column holds no more
PORTS = {5353: "MDNS", 5355: "LLMNR"}
NETBIOS = 137
"""NetBIOS names have DNS's header, and records and codes of their own (RFC 1002, 4.2): they are no DNS."""
JUMPS = 126  # most pointers of one name: 255 bytes hold no more labels
NAME = 255  # RFC 1035, 2.3.4
INFO_RECORDS, INFO = 20, 400  # most parts, and characters, of the line for people
SHORT, KEPT = 512, 1024  # bytes of messages that are remembered, and how many: 2 to 20 MB

_head = Struct(">6H").unpack_from
_pair = Struct(">HH").unpack_from
_record = Struct(">HHIH").unpack_from
_triple = Struct(">3H").unpack_from
_u2 = Struct(">H").unpack_from

TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 28: "AAAA", 29: "LOC",
    33: "SRV", 35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 44: "SSHFP", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY",
    50: "NSEC3", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 99: "SPF", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR",
    255: "ANY", 257: "CAA",
}  # fmt: skip
OPCODES = {0: "Standard query", 1: "Inverse query", 2: "Server status request", 4: "Zone change notification",
           5: "Dynamic update"}  # fmt: skip
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN",
          7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE"}  # fmt: skip
_SAID = {1: " Format error", 2: " Server failure", 3: " No such name", 4: " Not implemented", 5: " Refused"}

TARGETS = {2: (0, "dns.ns"), 6: (0, "dns.soa.mname"), 15: (2, "dns.mx.mail_exchange"), 33: (6, "dns.srv.target"),
           64: (2, "dns.svcb.targetname"), 65: (2, "dns.svcb.targetname")}  # fmt: skip
"""Records whose data holds a name worth keeping in `Summary.rest`: at which byte, under which name."""
SRV, NSEC, NSEC3, CSYNC, UPDATE = 33, 47, 50, 62, 5
SRV_OWNER = ("dns.srv.service", "dns.srv.proto", "dns.srv.name")
"""What tshark makes of the owner of an SRV record (RFC 2782), in place of `dns.resp.name`."""
COLUMNS = {5: "cname", 12: "ptr"}

_NO_NAMES: list[str] = []  # shared by the messages without records
_NO_TYPES: list[int] = []
_NO_REST: dict[str, str] = {}
_OPCODE = np.array([code in OPCODES for code in range(16)])

Names = dict[int, tuple[str, int]]
"""The names of one message by the place where they begin: text, and where the bytes behind them begin."""


class Broken(Exception):
    """The message cannot be read any further."""


@lru_cache(4096)
def _plain(wire: bytes) -> str | None:
    """The text of a name of labels only, as on the wire without its last zero; None where it is not of that kind."""
    labels, pos, end = [], 0, len(wire)
    while pos < end:
        size = wire[pos]
        if size > 63:
            return None
        labels.append(wire[pos + 1 : pos + 1 + size])
        pos += 1 + size
    if pos != end or end > NAME - 1:
        return None
    return printed(b".".join(labels)) or "<Root>"


def read_name(data: bytes, pos: int, names: Names) -> tuple[str, int]:
    """The name at `pos` of the message `data`, and where the next bytes are.

    Raises Broken where the message ends in it, a label has the reserved type 0x80, or a pointer is to the message's id:
    what a message says does not depend on that.
    """
    if (known := names.get(pos)) is not None:
        return known
    zero = data.find(0, pos)
    text = _plain(data[pos:zero]) if 0 <= zero - pos < NAME else None
    found = (text, zero + 1) if text is not None else _walk(data, pos, names)
    names[pos] = found
    return found


def _walk(data: bytes, pos: int, names: Names) -> tuple[str, int]:
    """As `read_name`, label by label. Texts in angle brackets are tshark's words for names that are none."""
    labels: list[bytes] = []
    after, jumps, limit = 0, 0, len(data)
    while pos < limit:
        size = data[pos]
        pos += 1
        if size == 0:
            return _joined(labels), after or pos
        if size < 64:
            if pos + size > limit:
                break
            labels.append(data[pos : pos + size])
            pos += size
        elif size >= 192:
            if pos >= limit:
                break
            after = after or pos + 1
            pos = (size & 63) << 8 | data[pos]
            jumps += 1
            if pos < 2:
                break
            if jumps > JUMPS:
                return "<Name contains a pointer that loops>", after
            if (known := names.get(pos)) is not None and (text := _behind(labels, known[0])):
                return text, after
        elif size < 128:
            return "<Unknown extended label>", after or pos
        else:
            break
    raise Broken


def _behind(labels: list[bytes], known: str) -> str:
    """The name of these labels and, behind them, a name that was read; "" where that takes a closer look."""
    if not labels:
        return known
    text = f"{printed(b'.'.join(labels))}.{known}"
    # Escapes are longer than what they stand for: in ASCII a text is no shorter than its bytes.
    return text if known[0] != "<" and len(text) <= NAME and text.isascii() else ""


def _joined(labels: list[bytes]) -> str:
    name = b".".join(labels)
    if len(name) > NAME:
        return "<Name too long>"
    return printed(name) or "<Root>"


class Message:
    """What one message says but for its id, in the order of the wire. Not changed once it is read: it is kept.

    `before` and `after` are the line for people before and behind the id; `parts` its pieces behind the verdict.
    """

    __slots__ = ("a", "aaaa", "after", "answers", "before", "cname", "flags", "parts", "ptr", "q_name", "q_type",
                 "r_name", "r_type", "rest", "verdict")  # fmt: skip

    def __init__(self, data: bytes) -> None:
        """Read the message `data`, HEADER bytes or more. Raises Broken where it surely is none."""
        _, flags, questions, answers, others, more = _head(data)
        self.q_name: list[str] = []
        self.q_type: list[int] = []
        self.parts: list[str] = []
        self.r_name = self.a = self.aaaa = self.cname = self.ptr = _NO_NAMES
        self.r_type = _NO_TYPES
        self.rest = _NO_REST
        names: Names = {}
        records = answers + others + more
        try:
            pos = self._questions(data, questions if questions < RECORDS else RECORDS, names)
            if records:
                self._records(data, pos, records if records < RECORDS else RECORDS, names)
        except (Broken, error, IndexError):
            if not self.q_type and not _cut(data, HEADER):
                raise Broken from None
        opcode = flags >> 11 & 15
        # of an update that counts prerequisites (RFC 2136, 2.2)
        self.answers = (answers,) if opcode != UPDATE else ()
        self.flags, self.before, self.verdict = flags, OPCODES.get(opcode) or f"Unknown operation ({opcode})", ""
        if flags & 0x8000:
            self.before, self.verdict = self.before + " response", _SAID.get(flags & 15, "")
        self.after = (self.verdict + "".join(self.parts[: INFO_RECORDS - 1]))[:INFO]

    def _questions(self, data: bytes, count: int, names: Names) -> int:
        pos = HEADER
        for _ in range(count):
            name, pos = read_name(data, pos, names)
            kind = _pair(data, pos)[0]
            pos += 4
            self.q_name.append(name)
            self.q_type.append(kind)
            self.parts.append(f" {TYPES.get(kind) or kind} {name}")
        return pos

    def _records(self, data: bytes, pos: int, count: int, names: Names) -> None:
        end, parts = len(data), self.parts
        self.r_name, self.r_type, self.rest = [], [], {}
        self.a, self.aaaa, self.cname, self.ptr = [], [], [], []
        r_name, r_type, a, aaaa = self.r_name, self.r_type, self.a, self.aaaa
        for _ in range(count):
            if data[pos] == 0xC0 and (known := names.get(data[pos + 1])) is not None:
                name = known[0]
                pos += 2
            else:
                name, pos = read_name(data, pos, names)
            kind, _, ttl, length = _record(data, pos)
            pos += 10
            if pos + length > end:
                return
            if kind != SRV:
                r_name.append(name)
            r_type.append(kind)
            if kind == 1 and length == 4:
                address = inet_ntoa(data[pos : pos + 4])
                a.append(address)
                parts.append(" A " + address)
            elif kind == 28 and length == 16:
                address = inet_ntop(AF_INET6, data[pos : pos + 16])
                aaaa.append(address)
                parts.append(" AAAA " + address)
            else:
                self._other(kind, name, data, pos, length, names)
                if kind == 41 and ttl >> 24:
                    self.rest["dns.resp.ext_rcode"] = str(ttl >> 24)
            pos += length

    def _other(self, kind: int, name: str, data: bytes, pos: int, length: int, names: Names) -> None:
        """A record whose data is a name, holds one, or is left out."""
        told = ""
        if (column := COLUMNS.get(kind)) is not None:
            told = read_name(data, pos, names)[0]
            getattr(self, column).append(told)
        elif (place := TARGETS.get(kind)) is not None and length > place[0]:
            told = read_name(data, pos + place[0], names)[0]
            self._keep(place[1], told)
            if kind == SRV:
                for part, label in zip(SRV_OWNER, name.split(".", 2), strict=False):
                    self._keep(part, label)
                told = "{} {} {} {}".format(*_triple(data, pos), told)
            elif kind == 15:
                told = f"{_u2(data, pos)[0]} {told}"
        elif kind in (NSEC, NSEC3, CSYNC):
            # tshark lists the types that the bitmap names (RFC 4034, 4.1.2) as dns.resp.type, too.
            if kind == NSEC:
                behind = read_name(data, pos, names)[1]
            elif kind == CSYNC:  # serial and flags (RFC 7477, 2.1.1)
                behind = pos + 6
            else:  # flags and salt, then the hash of the next owner (RFC 5155, 3.2)
                behind = pos + 5 + data[pos + 4]
                behind += 1 + data[behind]
            if len(self.r_type) < RECORDS:
                self.r_type.extend(_bitmap(data[behind : pos + length]))
        self.parts.append(f" {TYPES.get(kind) or kind} {told}" if told else f" {TYPES.get(kind) or kind}")

    def _keep(self, name: str, told: str) -> None:
        """One more value of a field without a column."""
        known = self.rest.get(name)
        self.rest[name] = told if known is None else f"{known},{told}"

    def turn(self, ident: int) -> Turn:
        """The half of a call that it is."""
        if self.flags & 0x8000:
            code = self.flags & 15
            # NXDOMAIN is an answer: resolvers with search domains get many of them for each name that exists.
            return Turn(False, "", RCODES.get(code) or str(code), code not in (0, 3), ident)
        kind = self.q_type[0] if self.q_type else -1
        return Turn(True, TYPES.get(kind) or (str(kind) if kind >= 0 else self.before), key=ident)


@lru_cache(KEPT)
def _kept(behind: bytes) -> Message | None:
    """The message of which this is behind the id: clients ask the same again and again."""
    return _read(b"\0\0" + behind)


def _read(data: bytes) -> Message | None:
    try:
        return Message(data)
    except Broken:
        return None


_LISTS: tuple[tuple[str, Callable[[Message], list[Any]]], ...] = (
    ("dns_count_answers", attrgetter("answers")),
    ("dns_qry_name", attrgetter("q_name")),
    ("dns_qry_type", attrgetter("q_type")),
    ("dns_resp_name", attrgetter("r_name")),
    ("dns_resp_type", attrgetter("r_type")),
    ("dns_a", attrgetter("a")),
    ("dns_aaaa", attrgetter("aaaa")),
    ("dns_cname", attrgetter("cname")),
    ("dns_ptr", attrgetter("ptr")),
)


def summary(l7: str, idents: list[int], messages: list[Message], note: str = "", pairing: bool = True) -> Summary:
    """What the messages of one payload say; `note` ends the line."""
    fields: dict[str, Value] = {"dns_id": idents, "dns_flags": [m.flags for m in messages]} if messages else {}
    rest: dict[str, str] = {}
    info: list[str] = []
    for column, values in _LISTS:
        if flat := list(chain.from_iterable(map(values, messages))):
            fields[column] = flat
    for ident, message in zip(idents, messages, strict=True):
        for name, told in message.rest.items():
            rest[name] = f"{rest[name]},{told}" if name in rest else told
        info += (f"{', ' if info else ''}{message.before} 0x{ident:04x}{message.verdict}", *message.parts)
    if note:
        info.append(note)
    turns = tuple(m.turn(ident) for ident, m in zip(idents, messages, strict=True)) if pairing else ()
    return Summary(l7, "".join(info[:INFO_RECORDS])[:INFO], fields, rest, turns)


def _bitmap(data: bytes) -> list[int]:
    """The types in the bitmap of an NSEC record (RFC 4034, 4.1.2), at most RECORDS."""
    types: list[int] = []
    pos = 0
    while pos + 2 <= len(data) and len(types) < RECORDS:
        window, size = data[pos] << 8, data[pos + 1]
        for i, bits in enumerate(data[pos + 2 : pos + 2 + size]):
            types.extend(window + i * 8 + bit for bit in range(8) if bits & 0x80 >> bit)
        pos += 2 + size
    return types


def _cut(data: bytes, pos: int) -> bool:
    """Whether the name at `pos` is made of labels as far as there are bytes: it was cut, not wrong."""
    end = len(data)
    while pos < end:
        size = data[pos]
        if 64 <= size < 192:
            return False
        if size == 0 or size >= 192:
            return True
        pos += 1 + size
    return True


def plausible(heads: Heads, at: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which payloads may have a DNS header at byte `at`, and which surely have one. Shapes (n,).

    The first is for known ports, where one question by a name, and few records, will do: what opcode and other bits say
    may be wrong. The second asks for one question, flags that name servers set, and (with `at` 0) a
    first label of letters, digits, `-` or `_`; random bytes pass once in some 10**11.
    """
    flags = heads.word(at + 2, 2)
    questions, answers = heads.word(at + 4, 2), heads.word(at + 6, 2)
    others, more = heads.word(at + 8, 2), heads.word(at + 10, 2)
    reply, code = flags >> 15 != 0, flags & 15
    known = _OPCODE[flags >> 11 & 15] & (flags & 0x40 == 0)
    some = np.where(
        reply, (questions + answers + others + more > 0) | (code > 0), (code == 0) & (questions + others > 0)
    )
    maybe = known & some & (heads.length >= at + HEADER) & (questions <= 64) & (answers <= 4096) & (others <= 1024)
    begins = _begins(heads, at + HEADER)
    one = (questions == 1) & (answers <= 64) & (others <= 32) & (more <= 32) & begins
    usual = one & (flags & 0x7800 == 0) & (code <= 5)
    usual &= reply | ((answers == 0) & (others == 0) & (flags & 0x068F == 0))
    return (maybe & (more <= 1024)) | one, maybe & usual


def _begins(heads: Heads, at: int) -> NDArray[np.bool_]:
    """Whether a host name's first label may be at byte `at`."""
    size, char = heads.first[:, at], heads.first[:, at + 1]
    lower = char | 0x20
    letter = ((lower >= 97) & (lower <= 122)) | ((char >= 48) & (char <= 57)) | (char == 45) | (char == 95)
    begins: NDArray[np.bool_] = (size > 0) & (size < 64) & letter & (heads.length >= at + 6)
    return begins


class DnsParser:
    """DNS, mDNS and LLMNR over UDP; no state."""

    name = "dns"
    transports = frozenset((UDP,))
    stateful = False

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By port and a header that can be one; elsewhere by a header, and a name's beginning, that surely is."""
        maybe, surely = plausible(heads, 0)
        found: NDArray[np.bool_] = (surely & ~heads.port(NETBIOS)) | (maybe & heads.port(53, 5353, 5355))
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """One datagram, one message."""
        l7, message = _datagram(payload, sport, dport)
        if message is None:
            return None
        return summary(l7, [int.from_bytes(payload[:2])], [message], pairing=l7 != "MDNS")

    def feed_all(self, batch: Batch) -> Findings:
        """As `feed`, of many datagrams."""
        found, messages, idents = Findings([]), [], []
        sport, dport = batch.sport.tolist(), batch.dport.tolist()
        for i, payload in enumerate(batch.payloads):
            l7, message = _datagram(payload, sport[i], dport[i])
            if message is not None:
                ident = payload[0] << 8 | payload[1]
                found.at.append(i)
                found.l7.append(l7)
                found.info.append(f"{message.before} 0x{ident:04x}{message.after}"[:INFO])
                messages.append(message)
                idents.append(ident)
        found.cells = _cells(np.array(found.at, dtype=np.int64), idents, messages)
        found.rest = [(i, message.rest) for i, message in zip(found.at, messages, strict=True) if message.rest]
        if batch.turns:
            each = zip(found.at, found.l7, idents, messages, strict=True)
            found.turns = [(i, message.turn(ident)) for i, l7, ident, message in each if l7 != "MDNS"]
        return found


def _datagram(payload: bytes, sport: int, dport: int) -> tuple[str, Message | None]:
    """The protocol's name, and the message; None where there is none."""
    if len(payload) < HEADER:
        return "", None
    message = _kept(payload[2:]) if len(payload) <= SHORT else _read(payload)
    l7 = PORTS.get(sport) or PORTS.get(dport)
    if l7 is None:
        l7 = "DNS"
        if sport != 53 and dport != 53 and not (message is not None and message.q_type and _asks(payload)):
            return "", None
    return l7, message


def _cells(at: NDArray[np.int64], idents: list[int], messages: list[Message]) -> Cells:
    """The columns of some messages, each in a payload of its own."""
    cells: Cells = {"dns_id": (at, idents), "dns_flags": (at, [message.flags for message in messages])}
    for column, get in _LISTS:
        values = list(map(get, messages))
        flat = list(chain.from_iterable(values))
        if flat:
            cells[column] = (np.repeat(at, np.fromiter(map(len, values), dtype=np.int64, count=len(values))), flat)
    return cells


def _asks(payload: bytes) -> bool:
    """Whether the first question's class is one that exists: the last word on ports that are not DNS's."""
    pos = payload.find(0, HEADER)
    return pos > 0 and payload[pos + 3 : pos + 5] in (b"\0\1", b"\0\3", b"\0\4", b"\0\xff")


PARSER = DnsParser()
