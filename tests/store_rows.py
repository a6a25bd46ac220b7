"""For tests of the store: one that is open, what SQL answers, and entries that are cheap to make and to recognise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.store.books import Entry
from hub.store.store import Store
from protocol.columns import Columns, Dict, Lists, Text, empty, maps_of, texts_of
from protocol.ledger import Report
from protocol.messages import Batch, Tombstone
from protocol.schema import TABLES

NOW = 1_700_000_000 * 10**9
DAY = 86_400 * 10**9


def packet_columns(rows: int, first: int = 1) -> Columns:
    """`rows` packets with the frame numbers from `first`, a microsecond apart, every column of every kind in use."""
    number = np.arange(first, first + rows, dtype="<u8")
    columns: Columns = {column.name: empty(column, rows) for column in TABLES["packets"].columns}
    lengths = (number % 300).astype("<u4")
    tags = (number % 3).astype("u1")
    address = np.zeros((rows, 16), dtype=np.uint8)
    address[:, 10:12] = 255
    address[:, 12:] = (number * 2_654_435_761 % (1 << 32)).astype(">u4").view(np.uint8).reshape(rows, 4)
    return columns | {
        "frame_number": number,
        "time": (NOW + number * 1000).astype("<i8"),
        "len": (60 + number % 1400).astype("<u4"),
        "iface": Dict((number % 2).astype("<u4"), ("eth0", "lo")),
        "src": address,
        "src_port": (number % 65536).astype("<u2"),
        "vlan_id": Lists(tags, np.arange(int(tags.sum()), dtype="<u2")),
        "dns_qry_name": texts_of([["a.example", "é"][: n % 3] for n in range(rows)]),
        "l7_fields": maps_of([{"redis.command": "GET"} if n % 2 else {} for n in range(rows)]),
        "info": Text(lengths, (97 + np.arange(int(lengths.sum())) % 26).astype(np.uint8)),
    }


def flow_columns(rows: int) -> Columns:
    """`rows` flows of 10 packets there and 5 back, 3 of them flow-only."""
    columns: Columns = {column.name: empty(column, rows) for column in TABLES["flows"].columns}
    start = (NOW + np.arange(rows) * 1000).astype("<i8")
    constants = {"packets": 10, "packets_rev": 5, "flow_only": 3}
    return columns | {"start": start, "end": start + 500} | {k: np.full(rows, v, "<u8") for k, v in constants.items()}


def packets(seq: int, rows: int = 10, agent: str = "web-1", epoch: int = 7, **changes: Any) -> Entry:
    """Batch `seq` of a run whose every batch has `rows` packets; the ledger says just that."""
    columns = packet_columns(rows, 1 + (seq - 1) * rows) | changes
    ledger = {"captured": seq * rows, "rows": seq * rows}
    first, last = NOW, NOW + seq * rows * 1000
    batch = Batch(agent, epoch, seq, "packets", rows, rows, 0, first, last, 0, 0, b"", ledger)
    return Entry(batch, columns, "node-1", "live", 3)


def flows(seq: int, rows: int = 4, agent: str = "web-1", epoch: int = 7) -> Entry:
    """Batch `seq`, of flows."""
    batch = Batch(agent, epoch, seq, "flows", rows, 15 * rows, 3 * rows, NOW, NOW + rows * 1000, 0, 0, b"", {})
    return Entry(batch, flow_columns(rows), "node-1", "live", 3)


def alternating(seq: int, rows: int) -> Entry:
    """Batch `seq` of a run that sends packets and flows in turn and keeps its books: odd packets, even 10 flows."""
    sent, flow_batches = (seq + 1) // 2 * rows, seq // 2
    flow_only, flow_packets = 30 * flow_batches, 150 * flow_batches
    captured = max(sent + flow_only, flow_packets)
    report = Report(captured, sent, flow_only, captured - sent - flow_only, flow_packets, captured - flow_packets)
    entry = packets(seq, rows) if seq % 2 else flows(seq, 10)
    return replace(entry, message=replace(entry.message, ledger=report.to_map()))


def tombstone(seq: int, packets: int = 10, agent: str = "web-1", epoch: int = 7, **values: Any) -> Entry:
    """A tombstone of a packet batch, or with kind="report" a report."""
    message = Tombstone(agent, epoch, seq, **{"kind": "packets", "packets": packets, "reason": "shed"} | values)
    return Entry(message, None, "node-1", "live", 3)


def ask(store: Store, sql: str, **params: Any) -> list[tuple[Any, ...]]:
    """What the store answers."""
    with store.reader() as reader:
        return reader.rows(sql, params, timeout=20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of its own for a test, `chdb://TMP_PATH/store`."""
    store = Store(f"chdb://{tmp_path}/store")
    store.open(NOW)
    yield store
    store.close()
