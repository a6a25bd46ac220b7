#!/usr/bin/env python3
"""Make the capture that the benchmarks read: a million Ethernet frames, the same bytes at every run.

    bench/make_pcap.py [--frames N] [--corpus DIR] OUTPUT

The Ethernet captures (classic pcap) of the corpus are strung together and repeated. In every repetition the outermost
IPv4 and IPv6 addresses and the times are shifted, so that flows differ. Nothing else is changed: checksums of the
shifted headers are wrong, and addresses inside tunnels repeat. Without a corpus the same is done with generated
traffic of the same mix (TCP with data, DNS, ICMP, ARP, IPv6).
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
START = 1_700_000_000
ETHERNET = 1
MAGICS = {0xA1B2C3D4: 1_000, 0xA1B23C4D: 1}  # classic pcap: nanoseconds per unit of the fraction
LONGEST = 600 * 10**9
"""No pause between two frames and no capture counts for longer than this, nanoseconds."""
WEB = (
    *((0, 0x02, 0), (1, 0x12, 0), (0, 0x10, 0), (0, 0x18, 420), (1, 0x10, 0)),
    *((1, 0x10, 1380), (0, 0x10, 0)) * 8,
    *((1, 0x18, 700), (0, 0x11, 0), (1, 0x11, 0), (0, 0x10, 0)),
)
"""A web request: side that sends (0 the client), TCP flags, bytes of payload."""
TAGS = (0x8100, 0x88A8, 0x9100)


@dataclass(frozen=True)
class Frame:
    """One frame: when, nanoseconds since the capture began, its length on the wire and its bytes."""

    at: int
    wire: int
    data: bytes


def read_classic(path: Path) -> list[Frame]:
    """The frames of a classic pcap file of link type Ethernet; empty for any other file."""
    raw = path.read_bytes()
    order = next((o for o in "<>" if len(raw) >= 24 and struct.unpack(o + "I", raw[:4])[0] in MAGICS), None)
    if order is None or struct.unpack(order + "I", raw[20:24])[0] & 0xFFFF != ETHERNET:
        return []
    unit = MAGICS[struct.unpack(order + "I", raw[:4])[0]]
    frames, position, first = [], 24, None
    while position + 16 <= len(raw):
        seconds, fraction, length, wire = struct.unpack_from(order + "4I", raw, position)
        moment = seconds * 10**9 + fraction * unit
        first = moment if first is None else first
        data = raw[position + 16 : position + 16 + length]
        frames.append(Frame(min(max(moment - first, 0), LONGEST), wire, data))
        position += 16 + length
    return frames


def generated() -> list[Frame]:
    """Traffic of about the corpus' mix: web over TCP, DNS, ping, ARP, a fifth of it IPv6."""
    return [Frame(i * 200_000, len(data), data) for i, data in enumerate(_conversations())]


def _conversations() -> Iterator[bytes]:
    for n in range(240):
        family = 6 if n % 5 == 0 else 4
        client, server, port = n + 2, n % 7 + 1, 32768 + n * 17 % 28000
        yield _packet(family, client, server, 17, struct.pack("!4H", port, 53, 41, 0) + bytes(33))
        yield _packet(family, server, client, 17, struct.pack("!4H", 53, port, 57, 0) + bytes(49))
        yield from _web(family, client, server, port)
        if n % 8 == 0:
            kinds = (8, 0) if family == 4 else (128, 129)
            yield _packet(family, client, server, 1 if family == 4 else 58, bytes([kinds[0]]) + bytes(63))
            yield _packet(family, server, client, 1 if family == 4 else 58, bytes([kinds[1]]) + bytes(63))
            yield _ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20))


def _web(family: int, client: int, server: int, port: int) -> Iterator[bytes]:
    """One request and its answer, from SYN to FIN, with sequence numbers that advance."""
    hosts, ports, sent = (client, server), (port, 443), [client * 7919, server * 104729]
    for side, flags, size in WEB:
        there, back = side, 1 - side
        segment = _tcp(ports[there], ports[back], sent[there], sent[back] if flags & 0x10 else 0, flags, bytes(size))
        yield _packet(family, hosts[there], hosts[back], 6, segment)
        sent[there] += size + bool(flags & 0x03)


def _tcp(source: int, target: int, seq: int, ack: int, flags: int, data: bytes) -> bytes:
    return struct.pack("!2H2I4H", source, target, seq, ack, 5 << 12 | flags, 64240, 0, 0) + data


def _packet(family: int, source: int, target: int, proto: int, payload: bytes) -> bytes:
    if family == 4:
        addresses = bytes([10, 0, 0, source]) + bytes([192, 168, 1, target])
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0x4000, 64, proto, 0) + addresses
        return _ethernet(0x0800, header + payload)
    prefix = bytes.fromhex("20010db8000000000000000000000000")[:15]
    header = struct.pack("!IHBB", 6 << 28, len(payload), proto, 64) + prefix + bytes([source]) + prefix
    return _ethernet(0x86DD, header + bytes([target]) + payload)


def _ethernet(kind: int, payload: bytes) -> bytes:
    return bytes.fromhex("020000000001020000000002") + struct.pack("!H", kind) + payload.ljust(46, b"\0")


def ip_header(data: bytes) -> tuple[int, int]:
    """Where the outermost IP header of an Ethernet frame begins and its version; (0, 0) where there is none."""
    position, kind = 14, int.from_bytes(data[12:14], "big")
    while kind in TAGS and len(data) >= position + 4:
        kind = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 4
    if kind == 0x8864:  # PPPoE session: 6 bytes, then the PPP protocol
        kind = {0x0021: 0x0800, 0x0057: 0x86DD}.get(int.from_bytes(data[position + 6 : position + 8], "big"), 0)
        position += 8
    if kind == 0x0800 and len(data) >= position + 20:
        return position, 4
    return (position, 6) if kind == 0x86DD and len(data) >= position + 40 else (0, 0)


@dataclass(frozen=True)
class Template:
    """One repetition: its records as they stand in the file, and what is shifted in them.

    `records` (n,) are the offsets of the record headers, `times` (n,) nanoseconds, `addresses` the offsets of the byte
    of every address that is shifted first (the next one takes the carry), `span` how far times shift.
    """

    data: np.ndarray
    records: np.ndarray
    times: np.ndarray
    addresses: np.ndarray
    span: int


def template(captures: list[list[Frame]]) -> Template:
    """All captures one after the other, as one repetition."""
    parts, records, times, addresses, offset, clock = [], [], [], [], 0, 0
    for frames in captures:
        for frame in frames:
            parts.append(struct.pack("<4I", 0, 0, len(frame.data), frame.wire) + frame.data)
            records.append(offset)
            times.append(clock + frame.at)
            position, version = ip_header(frame.data)
            begin = offset + 16 + position
            # IPv4: second byte of source and target; IPv6: seventh, within the subnet prefix
            addresses += [begin + 13, begin + 17] if version == 4 else [begin + 14, begin + 30] if version == 6 else []
            offset += len(parts[-1])
        clock = max(times) + 1_000_000
    data = np.frombuffer(b"".join(parts), np.uint8)
    return Template(data, np.array(records), np.array(times, np.int64), np.array(addresses), clock)


def repetition(source: Template, number: int) -> np.ndarray:
    """The bytes of one repetition."""
    data = source.data.copy()
    data[source.addresses] += np.uint8(number & 0xFF)
    data[source.addresses + 1] += np.uint8(number >> 8 & 0xFF)
    times = source.times + number * source.span
    stamps = np.stack([START + times // 10**9, times % 10**9 // 1_000], axis=1).astype("<u4")
    data[source.records[:, None] + np.arange(8)] = stamps.view(np.uint8)
    return data


def write(path: Path, captures: list[list[Frame]], frames: int) -> None:
    """Write `frames` frames to `path`, complete or not at all."""
    source = template(captures)
    count = len(source.records)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, ETHERNET))
        for number in range(-(-frames // count)):
            left = frames - number * count
            data = repetition(source, number)
            out.write(data.data if left >= count else data[: source.records[left]].data)
    partial.replace(path)


def main() -> None:
    """Read the arguments, write the file, say what was done."""
    parser = argparse.ArgumentParser(description="make the capture that the benchmarks read")
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", type=int, default=1_000_000)
    default = os.environ.get("NODETAP_CORPUS", ROOT.parent / "shared" / "pcaps")
    parser.add_argument("--corpus", type=Path, default=Path(default))
    given = parser.parse_args()
    begin = time.perf_counter()
    captures = [frames for path in sorted(given.corpus.glob("*.pcap")) if (frames := read_classic(path))]
    kind = (
        f"{len(captures)} captures of the corpus" if captures else f"generated traffic (no captures in {given.corpus})"
    )
    write(given.output, captures or [generated()], given.frames)
    size = given.output.stat().st_size / 1e6
    seconds = time.perf_counter() - begin
    print(f"{given.output}: {given.frames:,} frames, {size:,.0f} MB, from {kind}, {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
