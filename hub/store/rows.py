"""What the tables say at open: the books, and rows whose lines are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from hub.store.books import Books, Found, StoredEpoch
from hub.store.ddl import BATCHES

_BOOKS = f"""
SELECT agent, epoch, min(seq), max(seq), kind, sum(rows), sum(packets), sum(flow_only), reason,
    maxIf((commit, node), node != ''), maxIf((commit, source), source != ''),
    maxIf((seq, ledger, recovered), ledger != ''),
    max(final), min(stored_at), max(stored_at), maxIf(last, rows > 0), max(session), max(commit)
FROM (
    SELECT *, seq - row_number() OVER (PARTITION BY agent, epoch ORDER BY seq) AS island FROM {BATCHES.name}%s)
GROUP BY agent, epoch, island, kind, reason ORDER BY agent, epoch"""
"""One question, so that all it says is of one moment: other hubs may be storing. An island is a run of seqs without a
gap; the kinds of batches in it overlap."""

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


def stored_indexes(client: Any, table: str) -> list[str]:
    """The names of its indexes, beside the sorting key."""
    where = "database = currentDatabase() AND table = {table:String}"
    sql = f"SELECT name FROM system.data_skipping_indices WHERE {where}"
    return [name for (name,) in client.query(sql, parameters={"table": table}).result_rows]


def load_books(client: Any, where: str = "", **values: Any) -> Books:
    """The books from the lines in `batches`, of all runs or of those that a condition holds for."""
    books = Books()
    sql = _BOOKS % (f" WHERE {where}" if where else "")
    for (agent, epoch), found in groupby(client.query(sql, parameters=values).result_rows, key=itemgetter(0, 1)):
        groups = [group[2:] for group in found]
        _load_run(books.run(agent, epoch), groups)
        books.commit = max(books.commit, *(group[-1] for group in groups))
    return books


def load_runs(client: Any, agent: str, epochs: Sequence[int]) -> list[StoredEpoch]:
    """These runs of an agent, as far as there are any."""
    where = "agent = {agent:String} AND epoch IN {epochs:Array(UInt64)}"
    return list(load_books(client, where, agent=agent, epochs=list(epochs)).runs.values())


def _load_run(run: StoredEpoch, groups: list[Any]) -> None:
    for first, last, *sums in groups:
        run.seqs.add(first, last)
        run.held.add(*sums[:5])
    nodes, sources, reports, finals, firsts, lasts, packets, sessions, _ = list(zip(*groups, strict=True))[7:]
    run.node, run.source = max(nodes)[1], max(sources)[1]
    run.report_seq, run.ledger, recovered = max(reports)
    run.recovered = bool(recovered)
    run.final, run.session = bool(max(finals)), max(sessions)
    run.first_stored, run.last_stored, run.last_packet = min(firsts), max(lasts), max(packets)


def without_lines(client: Any, commit: int, where: str = "", **values: Any) -> Iterator[Found]:
    """Batches whose rows belong to commits above `commit`; of those only that the condition `where` holds for."""
    parameters = {"commit": commit, **values}
    more = f" AND {where}" if where else ""
    for kind, sql in _FOUND.items():
        for number, agent, epoch, seq, *counted in client.query(sql % more, parameters=parameters).result_rows:
            yield Found(number, agent, epoch, seq, kind, *counted)
