"""Transport payloads of a capture by frame, for tests of L7 parsers; shares no code with the decoder."""

from __future__ import annotations

import csv
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.capture.file import FileSource
from agent.l7 import HEAD, Conn, Heads, Parser, Summary

EXTENSION = {0, 43, 60, 135}  # hop-by-hop, routing, destination options, mobility: length in units of 8 bytes


class Payload(NamedTuple):
    """One frame's transport payload; `transport` is 6 or 17, `frame` counts from 1."""

    frame: int
    transport: int
    src: bytes
    sport: int
    dst: bytes
    dport: int
    data: bytes

    def key(self) -> tuple[object, ...]:
        """The connection, the same for both directions."""
        return (self.transport, *sorted([(self.src, self.sport), (self.dst, self.dport)]))


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, link type, bytes."""
    source, number = FileSource([path]), 0
    source.open()
    while not source.done:
        block = source.next_block(0.1)
        for i in range(len(block) if block is not None else 0):
            number += 1
            start = int(block.offset[i])
            data = bytes(block.data[start : start + int(block.cap_len[i])])
            yield number, source.interfaces[int(block.iface[i])].linktype, data
    source.close()


def _network(linktype: int, data: bytes) -> bytes:
    """From the IP header on, b"" where there is none."""
    if linktype == 0:
        return data[4:]
    if linktype in (101, 12):
        return data
    at = {1: 12, 113: 14, 276: 0}.get(linktype, len(data))
    kind, at = int.from_bytes(data[at : at + 2], "big"), at + 2
    at = 20 if linktype == 276 else at
    while kind in (0x8100, 0x88A8, 0x9100):
        kind, at = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
    if kind == 0x8864:
        return data[at + 8 :]
    return data[at:] if kind in (0x0800, 0x86DD) else b""


def _transport(data: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Protocol number, source, destination, and the transport header with what follows; 0 where there is none."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        total, fragment = struct.unpack_from("!2xHxxH", data)
        if fragment & 0x1FFF:
            return 0, b"", b"", b""
        return data[9], data[12:16], data[16:20], data[(data[0] & 15) * 4 : total or len(data)]
    if version == 6 and len(data) >= 40:
        end, kind, at = 40 + int.from_bytes(data[4:6], "big"), data[6], 40
        while kind in EXTENSION or kind == 44:
            if len(data) < at + 8 or (kind == 44 and int.from_bytes(data[at + 2 : at + 4], "big") & 0xFFF8):
                return 0, b"", b"", b""
            kind, at = data[at], at + (8 if kind == 44 else 8 + data[at + 1] * 8)
        return kind, data[8:24], data[24:40], data[at:end]
    return 0, b"", b"", b""


def payloads(path: Path) -> Iterator[Payload]:
    """The TCP and UDP payloads of a capture that are not empty; tunnels are not opened."""
    for number, linktype, data in frames(path):
        kind, src, dst, rest = _transport(_network(linktype, data))
        if kind not in (6, 17) or len(rest) < (20 if kind == 6 else 8):
            continue
        body = rest[(rest[12] >> 4) * 4 :] if kind == 6 else rest[8 : int.from_bytes(rest[4:6], "big") or len(rest)]
        if body:
            sport, dport = struct.unpack_from("!HH", rest)
            yield Payload(number, kind, src, sport, dst, dport, body)


def heads(payloads: Sequence[bytes], sport: int = 40000, dport: int = 40001) -> Heads:
    """What probes see of payloads that all come from one port."""
    first = np.zeros((len(payloads), HEAD), dtype=np.uint8)
    for i, data in enumerate(payloads):
        first[i, : len(data[:HEAD])] = np.frombuffer(data[:HEAD], dtype=np.uint8)
    length = np.array([len(data) for data in payloads], dtype=np.int64)
    ports = [np.full(len(payloads), port, dtype=np.uint16) for port in (sport, dport)]
    return Heads(first, length, *ports)


def claims(parser: Parser, data: bytes, sport: int = 40000, dport: int = 40001) -> bool:
    """Whether a parser's probe takes one payload."""
    return bool(parser.probe(heads([data], sport, dport))[0])


def summaries(parser: Parser, path: Path) -> dict[int, Summary]:
    """What a parser says of a capture, by frame number: probe, then feed, connections kept as the engine does."""
    conns: dict[tuple[object, ...], tuple[Conn, bytes, int]] = {}
    claimed: set[tuple[object, ...]] = set()
    out: dict[int, Summary] = {}
    for p in payloads(path):
        if p.transport not in parser.transports:
            continue
        conn, src, sport = conns.setdefault(p.key(), (Conn(), p.src, p.sport))
        if p.key() not in claimed and not claims(parser, p.data, p.sport, p.dport):
            continue
        said = parser.feed(p.data, int((p.src, p.sport) != (src, sport)), p.sport, p.dport, conn)
        if said is not None:
            if parser.stateful:
                claimed.add(p.key())
            out[p.frame] = said
    return out


NO_REASSEMBLY = ("tcp.desegment_tcp_streams:FALSE", "ip.defragment:FALSE", "ipv6.defragment:FALSE")


def tshark_columns(tshark: str, path: Path, columns: Sequence[str], *more: str) -> list[dict[str, list[str]]]:
    """What tshark says of every frame, reassembly off: by column name the values in order. `more` are its arguments."""
    args = [tshark, "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=\x1f"]
    for preference in NO_REASSEMBLY:
        args += ["-o", preference]
    for column in columns:
        args += ["-e", column]
    text = subprocess.run([*args, *more], capture_output=True, text=True, check=True).stdout
    rows = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [{name: v.split("\x1f") if v else [] for name, v in zip(columns, row, strict=False)} for row in rows]


def write_pcap(path: Path, segments: Sequence[tuple[bool, bytes]], port: int, udp: bool = False) -> Path:
    """A capture of one connection to `port`: (from the client, payload) in order, with a TCP handshake."""
    seq = [1000, 2000]
    packets: list[bytes] = [] if udp else [_packet(True, port, 0x02, seq, b""), _packet(False, port, 0x12, seq, b"")]
    for client, data in segments:
        packets.append(_udp(client, port, data) if udp else _packet(client, port, 0x18, seq, data))
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101))
        for i, packet in enumerate(packets):
            file.write(struct.pack("<IIII", 1, i, len(packet), len(packet)) + packet)
    return path


def _ip(client: bool, protocol: int, body: bytes) -> bytes:
    ends = [b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"][:: 1 if client else -1]
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + b"".join(ends) + body


def _ports(client: bool, port: int) -> tuple[int, int]:
    return (40000, port) if client else (port, 40000)


def _packet(client: bool, port: int, flags: int, seq: list[int], data: bytes) -> bytes:
    me = 0 if client else 1
    numbers = (seq[me], seq[1 - me] if flags & 0x10 else 0, 0x50, flags, 65535, 0, 0)
    seq[me] += len(data) + (flags >> 1 & 1)
    return _ip(client, 6, struct.pack("!HHIIBBHHH", *_ports(client, port), *numbers) + data)


def _udp(client: bool, port: int, data: bytes) -> bytes:
    return _ip(client, 17, struct.pack("!HHHH", *_ports(client, port), 8 + len(data), 0) + data)
