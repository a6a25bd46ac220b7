"""A hundred million packets in one store: how long questions take.

Made from the capture by the agent's pipeline and stored by the hub's own store, a commit at a time, in a store whose
days of ingest are those of the packets: a few millions on each of 29 days and the rest on the last.
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
from bench.recording import Segment, crowd, record
from hub.store.engine import MAX_INSERT_ROWS
from hub.store.retention import Keep
from hub.store.store import Entry, Store
from protocol.codec import unpack_body
from protocol.messages import Batch

DAYS, AGENTS, DAY = 30, 20, 86_400
ROWS, EARLY = 100_000_000, 1_000_000
"""Packets in all, and on each day but the last."""
QUESTIONS = 40
TARGETS = {"selective": 0.300, "top": 1.500, "rollup": 0.200}
"""Seconds: the 95th of a hundred selective questions, the median of the others."""


def bench_hundred(capture: Path, quick: bool) -> dict[str, Any]:
    """Fill a store, ask it."""
    rows, early = (1_200_000, 10_000) if quick else (ROWS, EARLY)
    begin = int(time.time()) // DAY * DAY - DAYS * DAY
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-") as name:
        folder = Path(name)
        filled = fill(folder, capture, rows, early, begin)
        hub = Hub(folder, "--retain-days", str(DAYS + 5))
        with ending(hub):
            hub.ready(120)
            return {**filled, **ask(hub.api, begin, 8 if quick else QUESTIONS)}


def fill(folder: Path, capture: Path, rows: int, early: int, begin: int) -> dict[str, Any]:
    """A store of `rows` packets, `early` on each of the days from `begin` (seconds since 1970) but the last."""
    store = Store(f"chdb://{folder}/store", Keep(days=DAYS + 5))
    store.open(begin * 10**9)
    started = time.process_time()
    stored = 0
    for day in range(DAYS):
        wanted = early if day < DAYS - 1 else rows - stored
        since = begin + day * DAY
        for group in _groups(_day(capture, wanted, since, day)):
            entries = [Entry(batch, unpack_body(batch)[0], batch.agent, "live", 1) for batch in group]
            store.commit(entries, (since + DAY // 2) * 10**9)
            stored += sum(batch.rows for batch in group if batch.kind == "packets")
    store.roll(time.time_ns())
    spent, tables = time.process_time() - started, store.statistics()
    store.close()
    return {"rows": stored, "cpu": spent, "bytes": tables["packets"]["bytes"] / stored, "tables": tables}


@cache
def _recorded(capture: Path, rate: float) -> list[Segment]:
    return record(capture, rate, live=False)


def _day(capture: Path, rows: int, since: int, day: int) -> Iterator[Batch]:
    """What AGENTS agents send on one day, about `rows` packets together; runs of their own."""
    segments = _recorded(capture, rows / DAY / AGENTS)
    sent = 0
    for batch in crowd(segments, AGENTS, since * 10**9):
        yield replace(batch, epoch=batch.epoch + day * AGENTS)
        sent += batch.rows if batch.kind == "packets" else 0
        if sent >= rows:
            return


def _groups(batches: Iterator[Batch]) -> Iterator[list[Batch]]:
    """Batches for one commit each: as many packet rows as one insert takes, or fewer."""
    most = MAX_INSERT_ROWS // 32_768
    while group := list(islice(batches, most)):
        yield group


def ask(api: str, begin: int, count: int) -> dict[str, Any]:
    """Seconds that answers take, each asked once more than is counted where it is always the same."""
    last = begin + (DAYS - 1) * DAY
    filters = [_filter(api, last, number, count) for number in range(count)]
    hours = [_span(last + number * (DAY - 3600) // count, 3600) for number in range(count)]
    selective = [
        seconds_of(api, "packets", filter=text, limit=100, **span) for text, span in zip(filters, hours, strict=True)
    ]
    group = {"by": "ip.src,ip.dst", "top": 10}
    top = [seconds_of(api, "flows", **group, **_span(last, DAY)) for _ in range(6)][1:]
    rollup = [seconds_of(api, "flows", **group, **_span(begin, DAYS * DAY)) for _ in range(6)][1:]
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
        "rollup": "ten pairs with most bytes of 30 days, median, ms",
    }
    lines = [("", "measured", "target"), ("---", "---:", "---")]
    lines += [("packets", f"{found['rows']:,}", ""), ("bytes a packet row", f"{found['bytes']:.1f}", "≤ 22")]
    for name, text in words.items():
        share = 95 if name == "selective" else 50
        lines.append((text, f"{np.percentile(found[name], share) * 1000:,.0f}", f"< {TARGETS[name] * 1000:,.0f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
