"""Questions to a store of ten million packets: how long until the answer is there."""

from __future__ import annotations

import datetime
import json
import math
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from bench.capture import HEADER, RECORD, Capture
from bench.end_to_end import BIN, clean_environment, hub
from bench.table import Figure

PARTS, AGENTS = 10, 5
DAY = 86_400
BEGIN = 1_790_000_000
"""The day's first second: any, as all questions name their times."""
ROUNDS = 7


def bench_questions(capture: Capture) -> list[Figure]:
    """Ten times the capture over one day, from five agents, in the embedded store."""
    with hub() as (agents, api), tempfile.TemporaryDirectory(prefix="nodetap-bench-") as folder:
        part = Path(folder, "part.pcap")
        for number in range(PARTS):
            spread(capture, part, BEGIN + number * DAY / PARTS, DAY / PARTS)
            command = [BIN / "nodetap-agent", "--log-level", "warning", "replay", part, "--hub", agents]
            subprocess.run(
                [*command, "--node", f"n{number % AGENTS}"],
                check=True, stdout=subprocess.DEVNULL, env=clean_environment(),
            )  # fmt: skip
        rows = PARTS * capture.frames
        filters = some_filters(api, ROUNDS)
        first = [seconds_of(api, "packets", filter=f, limit=100, **hour(n)) for n, f in enumerate(filters)]
        top = [seconds_of(api, "flows", by="ip.src,ip.dst", top=10, since="all") for _ in range(ROUNDS)]
        theirs = tshark(part, filters[0]) * PARTS if shutil.which("tshark") else math.nan
    return [
        below(f"{rows:,} packets: one address and port in one hour of a day, the newest 100 rows, ms", first, 0.150),
        below("the same: ten pairs with most bytes, over everything, ms", top, 0.400),
        Figure(f"tshark -Y over one tenth of them as pcap, times {PARTS}, ms", f"{theirs * 1000:,.0f}"),
    ]


def spread(capture: Capture, target: Path, begin: float, seconds: float) -> None:
    """A copy of which the frames are evenly spread over some seconds from `begin`."""
    raw = np.fromfile(capture.path, np.uint8)
    at = np.concatenate([[HEADER], capture.ends[:-1]])
    times = begin + np.arange(capture.frames) * (seconds / capture.frames)
    stamps = np.stack([times, times % 1 * 1e6], axis=1).astype("<u4").view(np.uint8).reshape(-1, RECORD // 2)
    raw[at[:, None] + np.arange(RECORD // 2)] = stamps
    raw.tofile(target)


def hour(number: int) -> dict[str, str]:
    """One hour of the day, another for each number."""
    start = BEGIN + number * DAY // ROUNDS
    since, until = (
        datetime.datetime.fromtimestamp(second, datetime.UTC).isoformat() for second in (start, start + 3600)
    )
    return {"since": since, "until": until}


def some_filters(api: str, count: int) -> list[str]:
    """Addresses and ports that are there: each from the last TCP segment of another hour."""
    found = []
    for number in range(count):
        row = json.loads(answer(api, "packets", filter="tcp and ip", limit=1, **hour(number)).splitlines()[0])
        found.append(f"ip.addr == {row['ip.src']} and tcp.port == {row['tcp.srcport']}")
    return found


def answer(api: str, resource: str, **params: object) -> bytes:
    """The whole answer to a question."""
    with urllib.request.urlopen(f"{api}/v1/{resource}?{urlencode(params)}", timeout=60) as response:
        body: bytes = response.read()
        return body


def seconds_of(api: str, resource: str, **params: object) -> float:
    """How long an answer takes, with its completeness."""
    begin = time.perf_counter()
    lines = answer(api, resource, **params).splitlines()
    took = time.perf_counter() - begin
    assert len(lines) > 1, "no rows: not the question that was meant"
    return took


def below(name: str, seconds: list[float], bound: float) -> Figure:
    """The median against its bound."""
    median = statistics.median(seconds)
    return Figure(name, f"{median * 1000:.0f} ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})",
                  f"< {bound * 1000:.0f}", median < bound)  # fmt: skip


def tshark(capture: Path, text: str) -> float:
    """Seconds for `tshark -Y` over a capture."""
    begin = time.perf_counter()
    command: list[str | Path] = ["tshark", "-r", capture, "-Y", text]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin
