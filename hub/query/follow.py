"""Rows in the order they were stored, and cursors that name a place between two of them.

A cursor is base64url of `{store id: place}`. A place is `[table, commit, backlog]`, after that commit, or
`[table, commit, backlog, agent, epoch, seq, n]`, after that row of it: packets are numbered by the agent
(`frame_number`), flow records and calls within their batch by start, end and content. `backlog` is `[since, commit]`
where the commits up to that one are shown from that packet time on only, else null. Pages are small queries of their
own, so that a slow reader never holds the store.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hub.query.output import columns
from hub.query.select import Query, chosen
from hub.query.sql import Params, compile_filter
from protocol.filter.tree import Node
from protocol.schema import ORIGIN, TABLES

PAGE_ROWS = 65_536
"""Rows of one page at most: what a busy node sends in a second."""
PAGE_BYTES = 24 << 20
"""Bytes after which a page is cut at the next block: what a follower that does not read holds in the hub."""
CHUNK_ROWS, MOST_CHUNK_ROWS = 65_536, 1 << 20
"""Rows of the commits one page chooses from, if more than one commit: more where a filter finds few of them."""
CURSOR = "nodetap.cursor"

_NUMBER = {"packets": "frame_number"}
"""What numbers a table's rows within a batch; those of other tables are counted as `n`."""
_MAX_CURSOR = 2048


class WrongCursor(ValueError):
    """A cursor that cannot be used. `code` is `bad_cursor` or `wrong_store`; the text is one line for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Place:
    """After commit `commit`, or after its row `row` (agent, epoch, seq, n).

    With a `backlog` (packet time in nanoseconds, commit), commits up to that one are shown from that time on only.
    """

    commit: int
    row: tuple[str, int, int, int] | None = None
    backlog: tuple[int, int] | None = None

    def passed(self, commit: int) -> Place:
        """The place after that commit; a backlog that lies behind is forgotten."""
        return Place(commit, None, self.backlog if self.backlog and self.backlog[1] > commit else None)


def encode(store: str, table: str, place: Place) -> str:
    """The cursor of a place."""
    row = (place.row[0], f"{place.row[1]:016x}", *place.row[2:]) if place.row else ()
    text = _compact({store: [table, place.commit, place.backlog, *row]})
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def decode(cursor: str, store: str, table: str) -> Place:
    """The place a cursor names in this store. Raises WrongCursor."""
    try:
        if len(cursor) > _MAX_CURSOR:
            raise ValueError
        places = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        known = {str(name): _place(*place) for name, place in places.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise WrongCursor("bad_cursor", "the cursor is damaged: hand back one exactly as it came") from None
    if store not in known:
        raise WrongCursor("wrong_store", f"the cursor belongs to another store than {store}: follow without it")
    where, place = known[store]
    if where != table:
        raise WrongCursor("bad_cursor", f"the cursor follows {where[:20]}, not {table}")
    return place


def _place(table: str, commit: int, backlog: Any, *row: Any) -> tuple[str, Place]:
    if not isinstance(table, str) or not _is_u64(commit):
        raise ValueError
    if backlog is not None:
        since, newest = backlog
        if not isinstance(since, int) or not -(1 << 63) <= since < 1 << 63 or not _is_u64(newest):
            raise ValueError
        backlog = since, newest
    if not row:
        return table, Place(commit, None, backlog)
    agent, epoch, seq, number = row
    if not isinstance(agent, str) or not _is_u64(seq) or not _is_u64(number) or not _is_u64(run := int(epoch, 16)):
        raise ValueError
    return table, Place(commit, (agent, run, seq, number), backlog)


def _is_u64(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


@dataclass(frozen=True, slots=True)
class Following:
    """What is followed."""

    store: str
    table: str
    filter: Node | None = None
    fields: tuple[str, ...] = ()


def oldest(following: Following) -> Query:
    """The oldest commit with rows; 0 where there is none."""
    return Query(f"SELECT min(`commit`) FROM {following.table}", {}, "Native")


def commits(following: Following, place: Place, newest: int) -> Query:
    """The commits after a place, oldest first: number, rows stored, rows that are still there, time of storing."""
    params = Params()
    first = params.add("UInt64", place.commit if place.row else place.commit + 1)
    last = params.add("UInt64", newest)
    since = _backlog(place, "last", params)
    kind = params.add("String", following.table)
    inside = f"`commit` BETWEEN {first} AND {last}"
    sql = (
        "SELECT b.c, b.n, p.n, b.t FROM (SELECT `commit` AS c, sum(rows) AS n, min(stored_at) AS t FROM batches "
        f"WHERE {inside} AND kind = {kind} AND rows > 0{since} GROUP BY c ORDER BY c LIMIT 1000) AS b "
        f"LEFT JOIN (SELECT `commit` AS c, count() AS n FROM {following.table} WHERE {inside} GROUP BY c) AS p "
        "ON b.c = p.c ORDER BY b.c"
    )
    return Query(sql, params.values, "Native")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Commits that are read together: up to `last`; what retention took of them; when the first was stored, ns."""

    last: int
    lost_commits: int = 0
    lost_rows: int = 0
    since: int | None = None


def chunk(found: Sequence[tuple[int, int, int, int]], newest: int, rows_wanted: int = CHUNK_ROWS) -> Chunk:
    """The first commits of `commits` with about so many rows; all where there are fewer."""
    stored = lost_commits = lost_rows = 0
    since = found[0][3] if found else None
    for commit, rows, present, _ in found:
        stored += present
        lost_commits += present < rows
        lost_rows += max(rows - present, 0)
        if stored >= rows_wanted:
            return Chunk(commit, lost_commits, lost_rows, since)
    return Chunk(found[-1][0] if len(found) >= 1000 else newest, lost_commits, lost_rows, since)


def between(following: Following, place: Place, last: int) -> Query:
    """How many rows lie after a place, up to commit `last`."""
    params = Params()
    source, condition = _rows(following, place, last, params)
    return Query(f"SELECT count() FROM {source} WHERE {condition}", params.values, "Native")


def begins(following: Following, place: Place) -> Query:
    """The packet time at which the rows after a place begin, as their batches say; NULL where there are none."""
    params = Params()
    after = params.add("UInt64", place.commit if place.row else place.commit + 1)
    kind = params.add("String", following.table)
    sql = f"SELECT minOrNull(first) FROM batches WHERE `commit` >= {after} AND kind = {kind} AND rows > 0"
    return Query(sql, params.values, "Native")


def probe(following: Following, place: Place, last: int) -> Query:
    """How many packets a page will choose from, and all that their `layers` hold."""
    params = Params()
    source, condition = _rows(following, place, last, params)
    return Query(f"SELECT count(), groupBitOr(layers) FROM {source} WHERE {condition}", params.values, "Native")


def page(following: Following, place: Place, last: int, layers: int | None = None) -> Query:
    """Up to PAGE_ROWS rows after a place, of commits up to `last`; each carries its cursor.

    `layers`: what the rows hold, so that the fields of other protocols need not be looked for.
    """
    table = TABLES[following.table]
    params = Params()
    source, condition = _rows(following, place, last, params)
    cursor = (CURSOR, _cursor_sql(following, place, params), "String")
    fields = [
        field for field in chosen(following.table, following.fields) if layers is None or not field.need & ~layers
    ]
    shown = columns(table, fields, "ndjson", (cursor,))
    order = f"ORDER BY `commit`, {', '.join(_key(following.table))} LIMIT {PAGE_ROWS}"
    return Query(f"SELECT {shown} FROM {source} WHERE {condition} {order}", params.values, "TSVRaw")


def _rows(following: Following, place: Place, last: int, params: Params) -> tuple[str, str]:
    """What follows a place, up to commit `last`: where it is read from, and the condition."""
    conditions = [f"`commit` BETWEEN {params.add('UInt64', place.commit)} AND {params.add('UInt64', last)}"]
    source = _numbered(following.table, conditions[0])
    after = _after(place, _key(following.table), params)
    conditions.append(after + _backlog(place, TABLES[following.table].until, params))
    if following.filter is not None:
        conditions.append(compile_filter(following.filter, params, following.table))
    return source, " AND ".join(conditions)


def _key(table: str) -> tuple[str, ...]:
    """What puts the rows of a commit in order."""
    return "agent", "epoch", "seq", _NUMBER.get(table, "n")


def _numbered(table: str, condition: str) -> str:
    """The table with its rows' numbers within a batch: total and stable, whatever is filtered."""
    if table in _NUMBER:
        return table
    content = ", ".join(f"`{column.name}`" for column in (*ORIGIN, *TABLES[table].columns))
    order = f"ORDER BY start, `end`, cityHash64({content})"
    number = f"row_number() OVER (PARTITION BY `commit`, agent, epoch, seq {order})"
    return f"(SELECT *, {number} AS n FROM {table} WHERE {condition})"


def _after(place: Place, key: Sequence[str], params: Params) -> str:
    after = f"`commit` > {params.add('UInt64', place.commit)}"
    if place.row is None:
        return after
    types = ("String", "UInt64", "UInt64", "UInt64")
    row = ", ".join(params.add(kind, value) for kind, value in zip(types, place.row, strict=True))
    return f"({after} OR ({', '.join(key)}) > ({row}))"


def _backlog(place: Place, column: str, params: Params) -> str:
    if place.backlog is None:
        return ""
    since, newest = params.add("Int64", place.backlog[0]), params.add("UInt64", place.backlog[1])
    return f" AND (`commit` > {newest} OR `{column}` >= {since})"


def _cursor_sql(following: Following, place: Place, params: Params) -> str:
    """`encode` in SQL."""
    backlog = params.add("String", f",{_compact(place.backlog)},")
    head = params.add("String", _compact({following.store: [following.table]})[:-2] + ",")
    number = _key(following.table)[-1]
    return (
        f"base64URLEncode(concat({head}, toString(`commit`), {backlog}, toJSONString(toString(agent)), ',\"', "
        f"leftPad(lower(hex(epoch)), 16, '0'), '\",', toString(seq), ',', toString({number}), ']}}'))"
    )


def last_place(rows: bytes, following: Following) -> Place:
    """The place after the last row of a page (whole JSON lines)."""
    line = rows[rows.rfind(b"\n", 0, -1) + 1 :]
    return decode(json.loads(line)[CURSOR], following.store, following.table)
