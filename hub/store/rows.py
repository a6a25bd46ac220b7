"""What the tables say at open: the books, and rows whose lines are missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hub.store.books import Books, Found
from hub.store.ddl import BATCHES

_ISLANDS = f"""
SELECT agent, epoch, min(seq), max(seq) FROM (
    SELECT agent, epoch, seq, seq - row_number() OVER (PARTITION BY agent, epoch ORDER BY seq) AS island
    FROM {BATCHES.name})
GROUP BY agent, epoch, island"""

_SUMS = f"""
SELECT agent, epoch, kind, reason, sum(rows), sum(packets), sum(flow_only) FROM {BATCHES.name}
GROUP BY agent, epoch, kind, reason"""

_RUNS = f"""
SELECT agent, epoch,
    argMaxIf(node, commit, node != ''), argMaxIf(source, commit, source != ''),
    argMaxIf(ledger, seq, ledger != ''), maxIf(seq, ledger != ''),
    max(final), min(stored_at), max(stored_at), maxIf(last, rows > 0), max(session), max(commit),
    argMaxIf(recovered, seq, ledger != '')
FROM {BATCHES.name} GROUP BY agent, epoch"""

_FOUND = {
    "packets": """
SELECT commit, agent, epoch, seq, count(), count(), 0, max(frame_number), min(time), max(time),
    toUInt16(any(ingest_day))
FROM packets WHERE commit > {commit:UInt64}%s GROUP BY commit, agent, epoch, seq""",
    "flows": """
SELECT commit, agent, epoch, seq, count(), sum(packets + packets_rev), sum(flow_only), 0, min(start), max(end),
    toUInt16(any(ingest_day))
FROM flows WHERE commit > {commit:UInt64}%s GROUP BY commit, agent, epoch, seq""",
    "calls": """
SELECT commit, agent, epoch, seq, count(), 0, 0, 0, min(start), max(end), toUInt16(any(ingest_day))
FROM calls WHERE commit > {commit:UInt64}%s GROUP BY commit, agent, epoch, seq""",
}


def stored_columns(client: Any, table: str) -> dict[str, str]:
    """The columns a stored table has, and their types."""
    sql = "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String}"
    return dict(client.query(sql, parameters={"table": table}).result_rows)


def load_books(client: Any) -> Books:
    """The books from the lines in `batches`."""
    books = Books()
    for agent, epoch, *values in client.query(_RUNS).result_rows:
        run = books.run(agent, epoch)
        run.node, run.source, ledger, run.report_seq, final, run.first_stored, run.last_stored = values[:7]
        run.report = json.loads(ledger) if ledger else {}
        run.final = bool(final)
        run.last_packet, run.session = values[7:9]
        books.commit = max(books.commit, values[9])
        run.recovered = bool(values[10])
    for agent, epoch, first, last in client.query(_ISLANDS).result_rows:
        books.run(agent, epoch).seqs.add(first, last)
    for agent, epoch, kind, reason, rows, packets, flow_only in client.query(_SUMS).result_rows:
        books.run(agent, epoch).held.add(kind, rows, packets, flow_only, reason)
    return books


def without_lines(client: Any, commit: int, where: str = "", **values: Any) -> Iterator[Found]:
    """Batches whose rows belong to commits above `commit`; of those only that the condition `where` holds for."""
    parameters = {"commit": commit, **values}
    more = f" AND {where}" if where else ""
    for kind, sql in _FOUND.items():
        for number, agent, epoch, seq, *counted in client.query(sql % more, parameters=parameters).result_rows:
            yield Found(number, agent, epoch, seq, kind, *counted)
