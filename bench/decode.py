"""`nodetap-agent decode -o none` and its peers: frames a second on one core, all in one race."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.kernel import load as kernel
from bench.capture import Capture
from bench.race import Entrant, Result, race
from bench.table import Figure, at_least
from protocol.built import VARIABLE

HERE = Path(__file__).resolve().parent
AGENT = Path(sys.executable).with_name("nodetap-agent")
PEERS_PYTHON = HERE.parent / ".bench" / "peers" / "bin" / "python"

FIVE_FIELDS = """
frame.time_epoch ip.src ip.dst ipv6.src ipv6.dst tcp.srcport tcp.dstport udp.srcport udp.dstport
"""
"""Time, addresses and ports, as tshark calls them: what the dpkt program reads."""

ALL_FIELDS = """
frame.number frame.time_epoch frame.len frame.cap_len frame.encap_type eth.src eth.dst eth.type vlan.id
ip.src ip.dst ip.proto ip.ttl ip.len ip.id ip.flags.mf ip.frag_offset
ipv6.src ipv6.dst ipv6.nxt ipv6.hlim ipv6.plen
tcp.srcport tcp.dstport tcp.flags tcp.seq_raw tcp.ack_raw tcp.window_size_value tcp.len
udp.srcport udp.dstport udp.length icmp.type icmp.code icmpv6.type icmpv6.code
arp.opcode arp.src.proto_ipv4 arp.dst.proto_ipv4
"""
"""What the packet columns hold, link to transport layer."""

WITHOUT_KERNEL = {VARIABLE: "off"}
OURS: tuple[tuple[str, str, dict[str, str], int], ...] = (
    ("decode --l7 off", "off", {}, 1_200_000),
    ("decode --l7 off, numpy only", "off", WITHOUT_KERNEL, 0),
    ("decode --l7 fast", "fast", {}, 300_000),
    ("decode --l7 fast, numpy only", "fast", WITHOUT_KERNEL, 0),
)
"""Name, depth, environment, frames a second to reach (0: no target); the first is what peers are compared with."""


@dataclass(frozen=True)
class Peer:
    """What we are compared with: over so many frames that its start is about a twentieth at most, and how many times
    faster `decode --l7 off` shall be than the fastest of its programs."""

    name: str
    target: int
    frames: int
    program: str = ""  # of bench/peers; empty for tshark
    does: str = ""


PEERS = (
    Peer("tshark", 50, 200_000),
    Peer("NFStream", 8, 1_000_000, "nfstream_flows.py", "flows"),
    Peer("dpkt", 20, 200_000, "dpkt_fields.py", "five fields"),
    Peer("scapy", 500, 80_000, "scapy_summary.py", "PcapReader, summary()"),
)


def bench_decode(capture: Capture, rounds: int) -> list[Figure]:
    """Ours, then each peer and how many times faster we are."""
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-", dir=capture.path.parent) as folder:
        ours = [_ours(capture, depth, name, env) for name, depth, env, _ in OURS]
        peers = [(peer, entrants_of(peer, *capture.cut(peer.frames, Path(folder)))) for peer in PEERS]
        entrants = [*ours, *(entrant for _, of_peer in peers for entrant in of_peer)]
        results = {result.entrant.name: result for result in race(entrants, rounds, core)}
    figures = [_our_figure(results[name], target) for name, _, _, target in OURS]
    for peer, of_peer in peers:
        figures += _peer_figures(peer, results[OURS[0][0]], [results[entrant.name] for entrant in of_peer])
    return figures


def _ours(capture: Capture, depth: str, name: str, env: dict[str, str]) -> Entrant:
    missing = "the line above: no compiled kernel was built" if env and kernel() is None else ""
    return Entrant(
        name, [AGENT, "decode", "-o", "none", "--l7", depth, capture.path], capture.frames, capture.path, env, missing
    )


def _our_figure(result: Result, target: int) -> Figure:
    name = f"{result.entrant.name}, frames/s"
    return Figure(name, result.words, f"≥ {target:,}", result.rate >= target) if target else Figure(name, result.words)


def _peer_figures(peer: Peer, ours: Result, theirs: Sequence[Result]) -> list[Figure]:
    """A line for each of the peer's programs, and one for the ratio to the fastest of them."""
    figures = [Figure(f"{result.entrant.name}, frames/s", result.words) for result in theirs]
    fastest = max(result.rate for result in theirs)
    if not fastest or not ours.rate:
        return figures
    which = f"the faster {peer.name}" if len(theirs) > 1 else peer.name
    return [*figures, at_least(f"{OURS[0][0]} : {which}", ours.rate / fastest, peer.target, ".1f")]


def entrants_of(peer: Peer, capture: Path, frames: int) -> list[Entrant]:
    """The programs of a peer over a capture."""
    if peer.program:
        return [_python_peer(peer, capture, frames)]
    tshark = shutil.which("tshark")
    if tshark is None:
        return [Entrant("tshark -T fields", missing="not installed (apt-get install tshark)")]
    name = f"tshark {_tshark_version(tshark)} -T fields"
    entrants = []
    for words, names in (("five fields", FIVE_FIELDS), ("all of the packet columns", ALL_FIELDS)):
        fields = [part for field in names.split() for part in ("-e", field)]
        command: list[str | Path] = [tshark, "-n", "-r", capture, "-T", "fields", *fields]
        entrants.append(Entrant(f"{name}, {words}, {frames:,} frames", command, frames, capture))
    return entrants


def _python_peer(peer: Peer, capture: Path, frames: int) -> Entrant:
    version = _pinned().get(peer.name.lower(), "")
    name = f"{peer.name} {version}, {peer.does}, {frames:,} frames"
    probe = ["-c", f"import {peer.name.lower()}"]
    if not PEERS_PYTHON.exists() or subprocess.run([PEERS_PYTHON, *probe], check=False, capture_output=True).returncode:
        return Entrant(f"{peer.name} {version}", missing="not installed (make bench installs it where it can)")
    return Entrant(name, [PEERS_PYTHON, HERE / "peers" / peer.program, capture], frames, capture)


def _pinned() -> dict[str, str]:
    """Package -> version in bench/peers.txt."""
    return dict(re.findall(r"^(\w+)==(\S+)", (HERE / "peers.txt").read_text(), re.MULTILINE))


def _tshark_version(tshark: str) -> str:
    said = subprocess.run([tshark, "--version"], check=True, capture_output=True, text=True).stdout
    return said.split()[2].rstrip(".")
