"""Whether our flows add up as softflowd's do: packets and IP bytes of every direction of every 5-tuple.

    python tools/softflowd_fidelity.py [FILE ...]

softflowd reads each capture and exports NetFlow version 9 (RFC 3954) to a socket of this program on loopback; our side
is the decoded packets summed by the same key. Its bytes are those behind the link header, Ethernet's padding included:
our `frame.len` less that header. It has no ports of SCTP. Compared are captures without tunnels and fragments whose
link type softflowd reads. Exit status 1 where a difference is not explained; 0, and a line, where softflowd is missing.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from protocol.schema import Has

BYTES, PACKETS, PROTOCOL, SPORT, DPORT, ICMP = 1, 2, 4, 7, 11, 32
SOURCES, TARGETS = (8, 27), (12, 28)
"""Field types of NetFlow version 9 (RFC 3954, 8)."""

_LINK = {0: 4, 1: 14, 12: 0, 101: 0, 108: 4, 113: 16, 228: 0, 229: 0, 276: 20}
"""Bytes of link headers by link type; each VLAN tag has 4 more."""

_NULL6 = "softflowd takes Linux's number for IPv6 behind LINKTYPE_NULL, captures have 24, 28 or 30"
EXPLAINED = {
    "malformed-too-small.pcap": "of a UDP header that is cut softflowd leaves out ports that are there",
    "null-grpc-server-streaming.pcapng": _NULL6,
    "null-quic-handshake.pcap": _NULL6,
    "null-tls12-alpn-h2.pcap": _NULL6,
}
"""Captures that differ, and why."""

Key: TypeAlias = "tuple[str, str, int, int, int]"
"""Source, destination, protocol, ports (0 where there are none)."""
Sums: TypeAlias = "dict[str, Counter[Key]]"
"""`packets` and `bytes` by key."""


def theirs(path: Path) -> Sums | None:
    """What softflowd exports of a capture; None where it does not read it."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        to = f"127.0.0.1:{listener.getsockname()[1]}"
        options = ["-v", "9", "-6", "-d", "-m", "100000", "-p", f"{folder}/pid", "-c", "none"]
        done = subprocess.run(
            ["softflowd", "-r", str(path.resolve()), "-n", to, *options], capture_output=True, text=True, check=False
        )
        listener.setblocking(False)
        datagrams = list(_received(listener))
    return read(datagrams) if done.returncode == 0 else None


def _received(listener: socket.socket) -> Iterator[bytes]:
    """What came: on loopback all of it is there when its sender has ended."""
    while True:
        try:
            yield listener.recv(65536)
        except BlockingIOError:
            return


def read(datagrams: list[bytes]) -> Sums:
    """The sums of NetFlow version 9 datagrams (RFC 3954, 5)."""
    sums: Sums = {"packets": Counter(), "bytes": Counter()}
    templates: dict[int, list[tuple[int, int]]] = {}
    for datagram in datagrams:
        at = 20
        while at + 4 <= len(datagram):
            number, size = struct.unpack_from("!HH", datagram, at)
            body = datagram[at + 4 : at + size]
            if number == 0:
                _templates(body, templates)
            elif number in templates:
                _records(body, templates[number], sums)
            at += max(size, 4)
    return sums


def _templates(body: bytes, templates: dict[int, list[tuple[int, int]]]) -> None:
    at = 0
    while at + 4 <= len(body):
        number, count = struct.unpack_from("!HH", body, at)
        templates[number] = list(struct.iter_unpack("!HH", body[at + 4 : at + 4 + 4 * count]))
        at += 4 + 4 * count


def _records(body: bytes, template: list[tuple[int, int]], sums: Sums) -> None:
    size, at = sum(length for _, length in template), 0
    while size and at + size <= len(body):
        fields: dict[int, bytes] = {}
        for kind, length in template:
            fields[kind] = body[at : at + length]
            at += length
        number = {kind: int.from_bytes(value, "big") for kind, value in fields.items()}
        source, target = (
            str(ip_address(next(fields[kind] for kind in kinds if kind in fields))) for kinds in (SOURCES, TARGETS)
        )
        protocol = number.get(PROTOCOL, 0)
        ports = (number.get(SPORT, 0), number.get(DPORT, 0)) if protocol in (6, 17) else (0, 0)
        sums["packets"][source, target, protocol, *ports] += number[PACKETS]
        sums["bytes"][source, target, protocol, *ports] += number[BYTES]


def ours(path: Path) -> Sums | None:
    """Our sums of a capture; None where it has tunnels or fragments."""
    sums: Sums = {"packets": Counter(), "bytes": Counter()}
    source, number = FileSource([path]), 1
    source.open()
    decoder = Decoder(source.interfaces)
    while (block := source.next_block(1.0)) is not None:
        columns: Any = decoder.block(block, number)
        number += len(block)
        layers = columns["layers"]
        if (layers & np.uint64(int(Has.TUNNEL))).any() or columns["frag_offset"].any() or columns["frag_more"].any():
            return None
        for row in np.flatnonzero(layers & np.uint64(int(Has.IP))):
            link = _LINK.get(source.interfaces[block.iface[row]].linktype, 0) + 4 * int(columns["vlan_id"].lengths[row])
            ends = (IPv6Address(columns[name][row].tobytes()) for name in ("src", "dst"))
            addresses = [str(one.ipv4_mapped or one) for one in ends]
            ports = ("src_port", "dst_port") if not int(layers[row]) & Has.SCTP else ("frag_more", "frag_more")  # zeros
            key = (*addresses, *(int(columns[name][row]) for name in ("proto", *ports)))
            sums["packets"][key] += 1
            sums["bytes"][key] += int(columns["len"][row]) - link
    source.close()
    return sums


def compare(path: Path) -> tuple[int, list[str]] | None:
    """Directions compared, and those that differ in words; None where the sides do not see the same packets."""
    mine = ours(path)
    other = theirs(path) if mine is not None else None
    if mine is None or other is None:
        return None
    keys = set(mine["packets"]) | set(other["packets"])
    differ = [
        f"{key}: ours {mine['packets'][key]} packets, {mine['bytes'][key]} bytes; "
        f"softflowd {other['packets'][key]}, {other['bytes'][key]}"
        for key in sorted(keys)
        if any(mine[name][key] != other[name][key] for name in mine)
    ]
    return len(keys), differ


def main() -> int:
    """Print a line a capture and every difference; 1 where one is not explained."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from fidelity import captures, corpus

    if shutil.which("softflowd") is None:
        print("softflowd is not installed: flows are not compared with its (apt-get install softflowd)")
        return 0
    files = [Path(word) for word in sys.argv[1:]] or (captures(corpus()) if corpus().is_dir() else [])
    print("| capture | directions | equal to softflowd's | why the others differ |\n|---|---:|---:|---|")
    left, unexplained = [], 0
    for path in files:
        result = compare(path)
        if result is None:
            left.append(path.name)
            continue
        count, differ = result
        unexplained += bool(differ) and path.name not in EXPLAINED
        print(f"| {path.name} | {count} | {count - len(differ)} | {EXPLAINED.get(path.name, '') if differ else ''} |")
        print("".join(f"- {text}\n" for text in differ), end="", file=sys.stderr)
    print(f"\nLeft out (tunnels, fragments, link types that softflowd does not read): {', '.join(left)}")
    return int(bool(unexplained))


if __name__ == "__main__":
    sys.exit(main())
