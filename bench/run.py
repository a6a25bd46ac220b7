#!/usr/bin/env python3
"""Measure nodetap on this machine: decode against tshark, end to end, the start of the command line.

    bench/run.py [--only decode,end-to-end,help] [--tshark-frames N] [--write] CAPTURE

Each figure is measured in one run beside what it is compared with. `--write` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PAGE = ROOT / "docs" / "performance.md"
MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")

TSHARK_FIELDS = """
frame.number frame.time_epoch frame.len frame.cap_len frame.encap_type eth.src eth.dst eth.type vlan.id
ip.src ip.dst ip.proto ip.ttl ip.len ip.id ip.flags.mf ip.frag_offset
ipv6.src ipv6.dst ipv6.nxt ipv6.hlim ipv6.plen
tcp.srcport tcp.dstport tcp.flags tcp.seq_raw tcp.ack_raw tcp.window_size_value tcp.len
udp.srcport udp.dstport udp.length icmp.type icmp.code icmpv6.type icmpv6.code
arp.opcode arp.src.proto_ipv4 arp.dst.proto_ipv4
"""
"""What the packet columns hold, as tshark calls it."""


@dataclass(frozen=True)
class Figure:
    """One line of the table; `target` is a bound or empty, `met` whether it is kept (None: no bound)."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None


def timed(arguments: Sequence[str | Path], **kwargs: object) -> float:
    """Seconds that a program takes. Raises CalledProcessError where it fails."""
    begin = time.perf_counter()
    subprocess.run([str(a) for a in arguments], check=True, stdout=subprocess.DEVNULL, **kwargs)  # type: ignore[call-overload]
    return time.perf_counter() - begin


def count_frames(capture: Path) -> int:
    """Frames of a classic pcap file, from its record headers."""
    frames, position, raw = 0, 24, memoryview(capture.read_bytes())
    while position + 16 <= len(raw):
        position += 16 + int.from_bytes(raw[position + 8 : position + 12], "little")
        frames += 1
    return frames


def bench_decode(capture: Path, tshark_frames: int) -> list[Figure]:
    """`nodetap-agent decode -o none` against `tshark -T fields`, frames per second."""
    frames = count_frames(capture)
    decode = [BIN / "nodetap-agent", "decode", "-o", "none", "--l7"]
    ours, with_l7 = (frames / timed([*decode, depth, capture]) for depth in ("off", "fast"))
    figures = [
        Figure("decode, link to transport layer (--l7 off), frames/s", f"{ours:,.0f}"),
        Figure("decode, application protocols too (--l7 fast), frames/s", f"{with_l7:,.0f}"),
    ]
    tshark = shutil.which("tshark")
    if tshark is None:
        return [*figures, Figure("tshark", "not installed")]
    wanted = min(frames, tshark_frames) if tshark_frames else frames
    fields = [part for name in TSHARK_FIELDS.split() for part in ("-e", name)]
    limits = [] if wanted == frames else ["-c", str(wanted)]
    theirs = wanted / timed([tshark, "-n", "-r", capture, *limits, "-T", "fields", *fields], stderr=subprocess.DEVNULL)
    ratio = ours / theirs
    return [
        *figures,
        Figure(f"tshark -T fields over {wanted:,} frames, frames/s", f"{theirs:,.0f}"),
        Figure("decode --l7 off : tshark", f"{ratio:.1f}", "≥ 20", ratio >= 20),
    ]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def bench_end_to_end(capture: Path) -> list[Figure]:
    """Agent to hub to store: from the start of the replay until all is acknowledged."""
    frames = count_frames(capture)
    agents, api = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-") as folder:
        log = Path(folder, "hub.log").open("wb")  # noqa: SIM115 - lives as long as the hub
        command = [BIN / "nodetap-hub", "serve", "--agents", f"127.0.0.1:{agents}", "--api", f"127.0.0.1:{api}"]
        hub = subprocess.Popen([*map(str, command), "--store", f"chdb://{folder}/store"], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{api}"
            wait_until(lambda: answers(url), 60)
            replay = [BIN / "nodetap-agent", "replay", capture, "--hub", f"ws://127.0.0.1:{agents}", "--l7"]
            rate, with_l7 = (frames / timed([*replay, depth]) for depth in ("off", "fast"))
            books = json.loads(ask(url, "ledger", "-o", "json"))
            stored = sum(run["row"] for run in books["agents"])
        finally:
            hub.terminate()
            hub.wait(60)
            log.close()
    return [
        Figure(
            "agent to hub to store (the default, --l7 off), packets/s", f"{rate:,.0f}", "≥ 200,000", rate >= 200_000
        ),
        Figure("agent to hub to store (--l7 fast), packets/s", f"{with_l7:,.0f}"),
        Figure("packet rows stored, both together", f"{stored:,} of {2 * frames:,}", "all", stored == 2 * frames),
        Figure("ledger", "balanced" if books["balanced"] else "not balanced", "balanced", books["balanced"]),
    ]


def ask(url: str, *arguments: str) -> bytes:
    """What `nodetap` prints."""
    return subprocess.run([BIN / "nodetap", "--hub-url", url, *arguments], check=True, stdout=subprocess.PIPE).stdout


def answers(url: str) -> bool:
    """Whether the hub answers `nodetap agents`."""
    command = [BIN / "nodetap", "--hub-url", url, "agents", "-o", "json"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until `condition` holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the hub did not come up")
        time.sleep(0.05)


def bench_help() -> list[Figure]:
    """Wall time of `nodetap --help`, median of 9."""
    seconds = statistics.median(timed([BIN / "nodetap", "--help"]) for _ in range(9))
    return [Figure("nodetap --help, seconds", f"{seconds:.3f}", "< 0.3", seconds < 0.3)]


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    words = {True: "met", False: "**missed**", None: ""}
    rows = [("figure", "measured", "target", ""), ("---", "---:", "---", "---")]
    rows += [(f.name, f.value, f.target, words[f.met]) for f in figures]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> str:
    """Where this was measured."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )


def write_page(text: str) -> None:
    """Replace what stands between the marks of docs/performance.md."""
    page = PAGE.read_text()
    before, _, rest = page.partition(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def main() -> int:
    """Measure, print, write where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description="measure nodetap on this machine")
    parser.add_argument("capture", type=Path)
    parser.add_argument("--only", default="decode,end-to-end,help", help="by comma")
    parser.add_argument("--tshark-frames", type=int, default=0, help="frames that tshark reads; 0 = all")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    given = parser.parse_args()
    benches: dict[str, Callable[[], list[Figure]]] = {
        "decode": lambda: bench_decode(given.capture, given.tshark_frames),
        "end-to-end": lambda: bench_end_to_end(given.capture),
        "help": bench_help,
    }
    figures = [figure for name in given.only.split(",") for figure in benches[name]()]
    text = f"{machine()}, `{given.capture.name}`\n\n{table(figures)}"
    print(text)
    if given.write:
        write_page(text)
    return 1 if any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
