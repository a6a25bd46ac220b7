#!/usr/bin/env python3
"""What storing costs: CPU and bytes a row, by rows an insert and by codec. Each point is a process of its own.

The packet, flow and call batches of a hundred agents, recorded at 3,500 packets a second each, are unpacked and
committed by the hub's own store; sockets are left out, they are in `bench/agents.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from os import getpid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from bench.recording import crowd, record  # noqa: E402
from bench.usage import MERGES, memory_of, threads_of, until_quiet  # noqa: E402
from hub.store import ddl  # noqa: E402
from hub.store.store import Entry, Store  # noqa: E402
from protocol.codec import unpack_body  # noqa: E402

CODECS = ("LZ4", "ZSTD(1)", "ZSTD(3)")
INSERTS = (16_384, 65_536, 131_072, 262_144, 524_288)
AGENTS, RATE = 100, 3_500.0
BEGIN = 1_790_000_000 * 10**9


@dataclass(frozen=True)
class Point:
    """One point of the curve; CPU in seconds per million packet rows, bytes a packet row."""

    codec: str
    insert: int
    rows: int
    unpack: float
    commit: float
    merges: float
    bytes: float
    all_bytes: float
    rss: int


def measure(capture: Path, codec: str, insert: int, rows: int) -> Point:
    """Store `rows` rows, at most `insert` packet rows a commit, in this process."""
    ddl.CODEC = codec
    batches = crowd(record(capture, RATE), AGENTS, BEGIN)
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-") as folder:
        store = Store(f"chdb://{folder}/store")
        store.open(time.time_ns())
        base = threads_of(getpid())
        unpacking = committing = 0.0
        stored = 0
        while stored < rows:
            group, packets = [], 0
            while packets < insert - 4_096:
                group.append(next(batches))
                packets += group[-1].rows if group[-1].kind == "packets" else 0
            begin = time.thread_time()
            entries = [Entry(batch, unpack_body(batch)[0], "", "live", 1, True) for batch in group]
            unpacked = time.thread_time()
            store.commit(entries, time.time_ns())
            unpacking, committing = unpacking + unpacked - begin, committing + time.thread_time() - unpacked
            stored += packets
        until_quiet(lambda: threads_of(getpid()).total())
        spent = threads_of(getpid()) - base
        others = sum(seconds for name, seconds in spent.items() if name not in ("main", MERGES))
        tables = store.statistics()
        store.close()
    return Point(
        codec, insert, stored, unpacking / stored * 1e6, (committing + others) / stored * 1e6,
        spent[MERGES] / stored * 1e6, tables["packets"]["bytes"] / stored,
        sum(table["bytes"] for table in tables.values()) / stored, memory_of(getpid(), "VmHWM"),
    )  # fmt: skip


def bench_curve(capture: Path, quick: bool) -> list[dict[str, object]]:
    """Every point, each in a process of its own."""
    points = [(codec, insert) for codec in CODECS for insert in INSERTS]
    if quick:
        points = [(codec, 65_536) for codec in CODECS]
    found = []
    for codec, insert in points:
        rows = 4 * insert if quick else max(4_000_000, 8 * insert)
        command = [
            sys.executable,
            __file__,
            str(capture),
            "--codec",
            codec,
            "--insert",
            str(insert),
            "--rows",
            str(rows),
        ]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return found


def curve_table(points: list[dict[str, float]]) -> str:
    """The curve as a Markdown table."""
    head = ("codec", "rows an insert", "unpacking", "storing", "merges", "together", "bytes a packet row",
            "with flows, calls, books", "RSS, MB")  # fmt: skip
    lines = [head, ("---", *("---:",) * 8)]
    for p in points:
        together = p["unpack"] + p["commit"] + p["merges"]
        sizes = (f"{p['bytes']:.1f}", f"{p['all_bytes']:.1f}", f"{p['rss'] / 1e6:.0f}")
        spent = (f"{p[part]:.2f}" for part in ("unpack", "commit", "merges"))
        lines.append((str(p["codec"]), f"{p['insert']:,}", *spent, f"{together:.2f}", *sizes))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """One point, as JSON."""
    parser = argparse.ArgumentParser(description="one point of the curve of what storing costs")
    parser.add_argument("capture", type=Path)
    parser.add_argument("--codec", default=ddl.CODEC)
    parser.add_argument("--insert", type=int, default=131_072)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    print(json.dumps(asdict(measure(given.capture, given.codec, given.insert, given.rows))))


if __name__ == "__main__":
    main()
