"""DNS messages (RFC 1035, 6891), and DNS, mDNS (RFC 6762) and LLMNR (RFC 4795) over UDP. Over TCP: `dns_tcp`.

Names are printed as tshark prints them: the root as `<Root>`, what cannot be shown escaped. A message that breaks off
or is wrong keeps what came before; a record is reported only when all of it is there. The texts of TXT records are
values and are left out; their names and types are there.
"""

from __future__ import annotations

from functools import lru_cache
from socket import AF_INET6, inet_ntoa, inet_ntop
from struct import Struct, error

import numpy as np
from numpy.typing import NDArray

from agent.l7 import UDP, Conn, Heads, Summary, Turn, Value
from agent.l7.text import printed

HEADER = 12
RECORDS = 255  # most questions and records read of one message; a list column holds no more
PORTS = {5353: "MDNS", 5355: "LLMNR"}
JUMPS = 126  # most pointers of one name: 255 bytes hold no more labels
NAME = 255  # RFC 1035, 2.3.4
INFO_RECORDS, INFO = 20, 400  # most parts, and characters, of the line for people

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
SRV, NSEC, NSEC3, UPDATE = 33, 47, 50, 5
SRV_OWNER = ("dns.srv.service", "dns.srv.proto", "dns.srv.name")
"""What tshark makes of the owner of an SRV record (RFC 2782), in place of `dns.resp.name`."""
COLUMNS = {5: "dns_cname", 12: "dns_ptr"}

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


def read_name(data: bytes, pos: int, start: int, names: Names) -> tuple[str, int]:
    """The name at `pos` of the message that begins at `start`, and where the next bytes are.

    Pointers count from `start`. Raises Broken where the message ends in it or a label has the reserved type 0x80.
    """
    if (known := names.get(pos)) is not None:
        return known
    zero = data.find(0, pos)
    text = _plain(data[pos:zero]) if 0 <= zero - pos < NAME else None
    found = (text, zero + 1) if text is not None else _walk(data, pos, start, names)
    names[pos] = found
    return found


def _walk(data: bytes, pos: int, start: int, names: Names) -> tuple[str, int]:
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
            pos = start + ((size & 63) << 8 | data[pos])
            jumps += 1
            if jumps > JUMPS:
                return "<Name contains a pointer that loops>", after
            if not labels and (known := names.get(pos)) is not None:
                return known[0], after
        elif size < 128:
            return "<Unknown extended label>", after or pos
        else:
            break
    raise Broken


def _joined(labels: list[bytes]) -> str:
    name = b".".join(labels)
    if len(name) > NAME:
        return "<Name too long>"
    return printed(name) or "<Root>"


class Found:
    """What the messages of one payload say, in the order of the wire."""

    __slots__ = ("a", "aaaa", "answers", "flags", "id", "info", "lists", "q_name", "q_type", "r_name", "r_type", "rest",
                 "turns")  # fmt: skip

    def __init__(self) -> None:
        self.id: list[int] = []
        self.flags: list[int] = []
        self.answers: list[int] = []
        self.q_name: list[str] = []
        self.q_type: list[int] = []
        self.r_name: list[str] = []
        self.r_type: list[int] = []
        self.a: list[str] = []
        self.aaaa: list[str] = []
        self.lists: dict[str, list[str]] = {}
        self.rest: dict[str, str] = {}
        self.info: list[str] = []
        self.turns: list[Turn] = []

    def message(self, data: bytes, start: int, end: int, pairing: bool = True) -> bool:
        """Read the message at `start`, which the sender says ends at `end`; False where it is surely none."""
        ident, flags, questions, answers, others, more = _head(data, start)
        if end < len(data):
            data = data[:end]
        names: Names = {}
        said, asked = len(self.info), len(self.q_type)
        self.info.append("")
        whole = True
        try:
            pos = self._questions(data, start, min(questions, RECORDS), names)
            self._records(data, start, pos, min(answers + others + more, RECORDS), names)
        except (Broken, error, IndexError):
            whole = False
        if not whole and asked == len(self.q_type) and not _cut(data, start + HEADER):
            return False
        self._note(ident, flags, answers, said, asked, pairing)
        return True

    def _questions(self, data: bytes, start: int, count: int, names: Names) -> int:
        pos = start + HEADER
        for _ in range(count):
            name, pos = read_name(data, pos, start, names)
            kind = _pair(data, pos)[0]
            pos += 4
            self.q_name.append(name)
            self.q_type.append(kind)
            self.info.append(f" {TYPES.get(kind) or kind} {name}")
        return pos

    def _records(self, data: bytes, start: int, pos: int, count: int, names: Names) -> None:
        end = len(data)
        for _ in range(count):
            if data[pos] == 0xC0 and (known := names.get(start + data[pos + 1])) is not None:
                name = known[0]
                pos += 2
            else:
                name, pos = read_name(data, pos, start, names)
            kind, _, ttl, length = _record(data, pos)
            pos += 10
            if pos + length > end:
                return
            if kind != SRV:
                self.r_name.append(name)
            self.r_type.append(kind)
            if kind == 1 and length == 4:
                address = inet_ntoa(data[pos : pos + 4])
                self.a.append(address)
                self.info.append(" A " + address)
            elif kind == 28 and length == 16:
                address = inet_ntop(AF_INET6, data[pos : pos + 16])
                self.aaaa.append(address)
                self.info.append(" AAAA " + address)
            else:
                self._other(kind, name, data, pos, length, start, names)
                if kind == 41 and ttl >> 24:
                    self.rest["dns.resp.ext_rcode"] = str(ttl >> 24)
            pos += length

    def _other(self, kind: int, name: str, data: bytes, pos: int, length: int, start: int, names: Names) -> None:
        """A record whose data is a name, holds one, or is left out."""
        told = ""
        if (column := COLUMNS.get(kind)) is not None:
            told = read_name(data, pos, start, names)[0]
            self.lists.setdefault(column, []).append(told)
        elif (place := TARGETS.get(kind)) is not None and length > place[0]:
            told = read_name(data, pos + place[0], start, names)[0]
            self._keep(place[1], told)
            if kind == SRV:
                for part, label in zip(SRV_OWNER, name.split(".", 2), strict=False):
                    self._keep(part, label)
                told = "{} {} {} {}".format(*_triple(data, pos), told)
            elif kind == 15:
                told = f"{_u2(data, pos)[0]} {told}"
        elif kind in (NSEC, NSEC3):
            # tshark lists the types that the bitmap names (RFC 4034, 4.1.2) as dns.resp.type, too.
            if kind == NSEC:
                behind = read_name(data, pos, start, names)[1]
            else:  # flags and salt, then the hash of the next owner (RFC 5155, 3.2)
                behind = pos + 5 + data[pos + 4]
                behind += 1 + data[behind]
            if len(self.r_type) < RECORDS:
                self.r_type.extend(_bitmap(data[behind : pos + length]))
        self.info.append(f" {TYPES.get(kind) or kind} {told}" if told else f" {TYPES.get(kind) or kind}")

    def _keep(self, name: str, told: str) -> None:
        """One more value of a field without a column."""
        known = self.rest.get(name)
        self.rest[name] = told if known is None else f"{known},{told}"

    def _note(self, ident: int, flags: int, answers: int, said: int, asked: int, pairing: bool) -> None:
        """The header's part, and the half of a call that it is."""
        self.id.append(ident)
        self.flags.append(flags)
        code = flags & 15
        opcode = flags >> 11 & 15
        if opcode != UPDATE:  # there it counts prerequisites (RFC 2136, 2.2)
            self.answers.append(answers)
        what = OPCODES.get(opcode) or f"Unknown operation ({opcode})"
        reply = flags & 0x8000
        verdict = _SAID.get(code, "") if reply else ""
        more = ", " if said else ""
        self.info[said] = f"{more}{what}{' response' if reply else ''} 0x{ident:04x}{verdict}"
        if pairing and reply:
            # NXDOMAIN is an answer: resolvers with search domains get many of them for each name that exists.
            self.turns.append(Turn(False, "", RCODES.get(code) or str(code), code not in (0, 3), ident))
        elif pairing:
            kind = self.q_type[asked] if asked < len(self.q_type) else -1
            self.turns.append(Turn(True, TYPES.get(kind) or (str(kind) if kind >= 0 else what), key=ident))

    def summary(self, l7: str) -> Summary:
        """The row's part."""
        fields: dict[str, Value] = {}
        if self.id:
            fields = {"dns_id": self.id, "dns_flags": self.flags}
        if self.answers:
            fields["dns_count_answers"] = self.answers
        if self.q_name:
            fields["dns_qry_name"] = self.q_name
            fields["dns_qry_type"] = self.q_type
        if self.r_name:
            fields["dns_resp_name"] = self.r_name
        if self.r_type:
            fields["dns_resp_type"] = self.r_type
            if self.a:
                fields["dns_a"] = self.a
            if self.aaaa:
                fields["dns_aaaa"] = self.aaaa
            fields.update(self.lists)
        return Summary(l7, "".join(self.info[:INFO_RECORDS])[:INFO], fields, self.rest, tuple(self.turns))


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

    The first is for known ports. The second asks for one question, flags that name servers set, and (with `at` 0) a
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
    usual = (flags & 0x7800 == 0) & (questions == 1) & (code <= 5) & (others <= 32) & (more <= 32)
    usual &= reply | ((answers == 0) & (others == 0) & (flags & 0x068F == 0))
    return maybe & (more <= 1024), maybe & usual & (answers <= 64) & _begins(heads, at + HEADER)


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
        found: NDArray[np.bool_] = surely | (maybe & heads.port(53, 5353, 5355))
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """One datagram, one message."""
        if len(payload) < HEADER:
            return None
        l7 = PORTS.get(sport) or PORTS.get(dport) or "DNS"
        found = Found()
        if not found.message(payload, 0, len(payload), l7 != "MDNS"):
            return None
        if l7 == "DNS" and sport != 53 and dport != 53 and not (found.q_type and _asks(payload)):
            return None
        return found.summary(l7)


def _asks(payload: bytes) -> bool:
    """Whether the first question's class is one that exists: the last word on ports that are not DNS's."""
    pos = payload.find(0, HEADER)
    return pos > 0 and payload[pos + 3 : pos + 5] in (b"\0\1", b"\0\3", b"\0\4", b"\0\xff")


PARSER = DnsParser()
