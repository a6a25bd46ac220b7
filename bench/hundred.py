"""A hundred million packets in one store: how long questions take.

Made from the capture by the agent's pipeline and stored by the hub's own store, a commit at a time, in a store whose
days of ingest are those of the packets: some on each of 29 days and the rest on the last, rolled up day by day.
"""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from procs import Hub, ending

from bench.questions import answer, seconds_of
from bench.recording import LEAST, Segment, crowd, record
from bench.usage import cpu_of, until_quiet
from hub.store.engine import MAX_INSERT_ROWS
from hub.store.retention import Keep
from hub.store.store import Entry, Store
from protocol.codec import unpack_body
from protocol.messages import Batch

DAYS, AGENTS, DAY = 30, 20, 86_400
ROWS = 100_000_000
FRAMES = 1_000_000
"""Of the capture. An agent sends at least a segment of it on each day: a LEAST-th, with its flows to the end."""
QUESTIONS = 40
TARGETS = {"selective": 0.300, "top": 1.500, "rollup": 0.200}
"""Seconds: the 95th of a hundred selective questions, the median of the others."""


def bench_hundred(capture: Path, quick: bool) -> dict[str, Any]:
    """Fill a store, ask it when what came in is merged."""
    rows, frames, days = (100_000, 16_000, 3) if quick else (ROWS, FRAMES, DAYS)
    begin = int(time.time()) // DAY * DAY - days * DAY
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-") as name:
        folder = Path(name)
        filled = fill(folder, capture, rows, frames, begin, days)
        hub = Hub(folder, "--retain-days", str(days + 5))
        with ending(hub):
            hub.ready(300)
            until_quiet(lambda: cpu_of(hub.popen.pid))
            return {**filled, **ask(hub.api, begin, days, 4 if quick else QUESTIONS)}


def fill(folder: Path, capture: Path, rows: int, frames: int, begin: int, days: int) -> dict[str, Any]:
    """A store of about `rows` packets: of each agent a segment on each of `days` from `begin` (seconds since 1970), and
    on the last as many as are wanted."""
    store = Store(f"chdb://{folder}/store", Keep(days=days + 5))
    store.open(begin * 10**9)
    started, stored, turn = time.process_time(), 0, AGENTS * (frames // LEAST)
    for day in range(days):
        turns = 1 if day < days - 1 else max(1, (rows - stored) // turn)
        since = begin + day * DAY
        for group in _groups(_day(capture, frames, turns, since, day)):
            entries = [Entry(batch, unpack_body(batch)[0], batch.agent, "live", 1, True) for batch in group]
            store.commit(entries, (since + DAY // 2) * 10**9)
            stored += sum(batch.rows for batch in group if batch.kind == "packets")
        while store.roll((since + DAY) * 10**9):
            pass
    spent, tables = time.process_time() - started, store.statistics()
    store.close()
    return {"rows": stored, "cpu": spent, "bytes": tables["packets"]["bytes"] / stored, "tables": tables}


@cache
def _recorded(capture: Path, rate: float, frames: int) -> list[Segment]:
    return record(capture, rate, frames=frames, live=False)


def _day(capture: Path, frames: int, turns: int, since: int, day: int) -> Iterator[Batch]:
    """What agents send on one day, each `turns` segments; runs of their own."""
    segments = _recorded(capture, turns * (frames // LEAST) / DAY, frames)
    for batch in crowd(segments, AGENTS, since * 10**9, turns):
        yield replace(batch, epoch=batch.epoch + day * AGENTS)


def _groups(batches: Iterator[Batch]) -> Iterator[list[Batch]]:
    """Batches for one commit each: as many packet rows as one insert takes, or fewer."""
    most = MAX_INSERT_ROWS // 32_768
    while group := list(islice(batches, most)):
        yield group


def ask(api: str, begin: int, days: int, count: int) -> dict[str, Any]:
    """Seconds that answers take, each asked once more than is counted where it is always the same."""
    last = begin + (days - 1) * DAY
    filters = [_filter(api, last, number, count) for number in range(count)]
    hours = [_span(last + number * (DAY - 3600) // count, 3600) for number in range(count)]
    selective = [
        seconds_of(api, "packets", filter=text, limit=100, **span) for text, span in zip(filters, hours, strict=True)
    ]
    group = {"by": "ip.src,ip.dst", "top": 10}
    top = [seconds_of(api, "flows", **group, **_span(last, DAY)) for _ in range(6)][1:]
    rollup = [seconds_of(api, "flows", **group, **_span(begin, days * DAY)) for _ in range(6)][1:]
    return {"selective": selective, "top": top, "rollup": rollup}


def _filter(api: str, last: int, number: int, count: int) -> str:
    """An address and a port that are there: those of a TCP segment of another hour."""
    span = _span(last + number * (DAY - 3600) // count, 3600)
    row = json.loads(answer(api, "packets", filter="tcp and ip", limit=1, **span).splitlines()[0])
    return f"ip.addr == {row['ip.src']} and tcp.port == {row['tcp.srcport']}"


def _span(since: int, seconds: int) -> dict[str, str]:
    moments = (datetime.datetime.fromtimestamp(second, datetime.UTC).isoformat() for second in (since, since + seconds))
    return dict(zip(("since", "until"), moments, strict=True))


def hundred_table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    words = {
        "selective": "one address and port in one hour, the newest 100 rows, p95, ms",
        "top": "ten pairs with most bytes of the last day, median, ms",
        "rollup": "ten pairs with most bytes of all 30 days, from rollups, median, ms",
    }
    lines = [("", "measured", "target"), ("---", "---:", "---")]
    lines += [("packets", f"{found['rows']:,}", ""), ("bytes a packet row", f"{found['bytes']:.1f}", "≤ 22")]
    for name, text in words.items():
        share = 95 if name == "selective" else 50
        lines.append((text, f"{np.percentile(found[name], share) * 1000:,.0f}", f"< {TARGETS[name] * 1000:,.0f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
