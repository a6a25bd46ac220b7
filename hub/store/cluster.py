"""The store on ClickHouse servers, which any number of hubs share. To its users the same as `hub.store.store.Store`.

A commit is one insert for each batch's rows, under the token AGENT/EPOCH/SEQ, so that whoever else sends them stores
nothing; then the rows are read back, as nothing else proves that they are there (a token alone does not); then one
insert of lines into `batch_lines`. Every step may be repeated after any error, and by any hub: rows are stored once by
their token, lines count once by their place. So a hub that was thought dead may wake up and go on.

What another hub leaves behind is rows without lines. Whoever sees that it says nothing any more writes those, and so
does the hub that one of its agents comes to.

Threads: one calls `open`, `commit`, `close`; `takeover` and all the rest any. A thread of its own says every second up
to where this hub's commits are whole, and reads what the others say and have stored.
"""

from __future__ import annotations

import copy
import json
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import Any

import numpy as np
from clickhouse_connect.driver.exceptions import Error as ClientError

from hub import failpoints
from hub.store import cluster_ddl as layout
from hub.store import ddl, retention
from hub.store import rows as stored_rows
from hub.store.address import servers_of
from hub.store.books import (
    Books,
    Entry,
    Key,
    Line,
    News,
    Past,
    Place,
    StoredEpoch,
    columns_of_lines,
    day_of,
    line_of,
    rebuild,
)
from hub.store.cluster_keeper import ClusterKeeper
from hub.store.engine import POISON, one_line, quoted
from hub.store.entries import check, with_origin
from hub.store.errors import BadBatch, StoreError
from hub.store.hubs import BITS, EXPIRE, STEP, Numbers, Peers
from hub.store.periods import Rolled
from hub.store.reader import Pool
from hub.store.retention import Keep
from hub.store.server import Server, store_error
from hub.store.server_reader import ServerReader
from protocol.columns import text_of
from protocol.schema import TABLES, Table

READERS = 8
READER_WAIT = 5.0
INSERTS = 8
"""Inserts that run at once."""
BEAT = 1.0
SEE_AGAIN = 30
"""Every so many beats what the others stored is read once more from OVERLAP before: some of it may have come late."""
OVERLAP_MS = 120_000
LOOKS = 15
LOOK_AGAIN = 0.2
"""How often, and after how many seconds, rows that cannot be read back yet are looked for: a replica may lag."""

Listener = Callable[[News], object]
_LINE = ", ".join(f"toUInt16({c.name})" if c.name == "ingest_day" else c.name for c in ddl.BATCHES.columns)


class ClusterStore:
    """One store on ClickHouse servers. `id` is the same for all its hubs, and another once its tables are made anew."""

    def __init__(self, url: str, keep: Keep | None = None, *, api: str = "") -> None:
        self.servers = servers_of(url)
        self._server = Server(self.servers)
        self._keep, self._api = keep or Keep(), api
        self._books = Books()
        self._numbers = Numbers(0)
        self._places: dict[Place, int] = {}  # the numbers of entries that were tried
        self._again: dict[Place, int] = {}  # tokens that the server took without the rows
        self._peers = Peers()
        self._shown = 0
        self._seen = 0
        self._beats = 0
        self._said = 0.0
        self._connected: list[dict[str, Any]] | None = None  # not yet told
        self._apis: dict[int, str] = {}  # where the other hubs are asked
        self._untold: list[Line] = []  # what others stored and the listener has not heard of
        self._lock = threading.Lock()  # of books, numbers, places, shown, untold
        self._beat_lock = threading.Lock()
        self._ending = threading.Event()
        self._listener: Listener | None = None
        make: Any = lambda: ServerReader(self._server)  # noqa: E731  the same to its users as a Reader
        self._pool = Pool(make, READERS, READER_WAIT)
        self._keeper = ClusterKeeper(self.servers, self._keep)
        self._threads = ThreadPoolExecutor(INSERTS, thread_name_prefix="insert")
        self._beating: threading.Thread | None = None
        self.id = ""

    def __str__(self) -> str:
        return str(self.servers)

    @property
    def directory(self) -> Path | None:
        """It has none here."""
        return None

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, OSError) as error:
            raise store_error(self.servers, what, error) from None

    # -- open and close --------------------------------------------------------------------------------------------

    def open(self, now_ns: int) -> None:
        """Make or extend the tables, load the books, tell the other hubs. Raises StoreError."""
        with self._saying("cannot open the store"):
            self._make_tables()
            sql = "SELECT toString(uuid) FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"
            name = layout.kept(ddl.BATCHES.name, self.servers.cluster)
            self.id = str(self._server.query(sql, {"name": name}).result_rows[0][0]).replace("-", "")
            floors = self._floors()
            self._books = stored_rows.load_books(self._server)
            self._join(floors, now_ns)
            self._keeper.open(now_ns)
        self._beating = threading.Thread(target=self._beat_on, name="hubs", daemon=True)
        self._beating.start()

    def _make_tables(self) -> None:
        cluster = self.servers.cluster
        first, *others = layout.everything(self.servers.database, cluster)
        self._server.command(first, use_database=False)
        for statement in others:
            self._server.command(statement)
        for table in ddl.STORED.values():
            stored = stored_rows.stored_columns(self._server, layout.target(table.name))
            if unknown := ddl.unknown(table, stored):
                raise StoreError(
                    f"the store {self} was made by a newer nodetap ({table.name} has {unknown[0]}); "
                    "upgrade the hub or choose another --store"
                )
            indexes = stored_rows.stored_indexes(self._server, layout.kept(table.name, cluster))
            for statement in layout.extend(table, stored, indexes, cluster):
                self._server.command(statement)

    def _join(self, floors: dict[int, int], now_ns: int) -> None:
        """Take a number that no hub has, and begin above everything that may be shown before others know of us."""
        while (hub := 1 + secrets.randbelow(STEP - 1)) in floors:
            continue
        self._numbers = Numbers(hub)
        self._numbers.start(now_ns, max([self._books.commit, *floors.values()]))
        self._peers.saw(floors, monotonic())
        self._seen = max(0, self._books.commit - (OVERLAP_MS << BITS))
        self._say(now_ns)
        self._shown = self._whole(now_ns)

    def listen(self, listener: Listener) -> None:
        """`listener` is told of the other hubs every second, on a thread of the store's."""
        self._listener = listener

    def tell(self, agents: list[dict[str, Any]]) -> None:
        """Who is connected here, as `nodetap agents` describes them; said with the next beat."""
        self._connected = agents

    def close(self) -> None:
        """Say goodbye where there is nothing in doubt, and close every connection."""
        self._ending.set()
        if self._beating is not None:
            self._beating.join(self.servers.timeout)
            self._beating = None
            if not self._places:
                with suppress(ClientError, OSError):
                    self._say(time_ns(), left=1)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._keeper.close()
        self._pool.close()
        self._server.close()

    # -- what is held ----------------------------------------------------------------------------------------------

    def epochs(self) -> list[StoredEpoch]:
        """Every run the store knows; copies, the caller's to go on with."""
        with self._lock:
            return copy.deepcopy(list(self._books.runs.values()))

    def past(self) -> Past:
        """None: every run is among the epochs."""
        return Past()

    def old(self, now_ns: int) -> int:
        """Before all times: no run is left out."""
        return 0

    def recall(self, agent: str, epochs: Sequence[int]) -> list[StoredEpoch]:
        """None is left out."""
        return []

    def committed(self) -> int:
        """The newest commit below which everything is whole, whichever hub stored it."""
        return self._shown

    # -- commit ----------------------------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], now_ns: int) -> int:
        """As `Store.commit`: store what is not held yet; on the servers, and read back, when this returns."""
        for entry in entries:
            check(entry)
        with self._lock:
            fresh = self._books.fresh(entries)
            for entry in fresh:
                self._number(entry, now_ns)
        with self._saying("cannot write to"):
            if fresh:
                self._insert(fresh, now_ns)
                self._insert_lines([line_of(entry, self._places[entry.place], now_ns) for entry in fresh])
        return self._shown

    def _number(self, entry: Entry, now_ns: int) -> None:
        """The number that an entry gets, or got when it was first tried: its rows may be stored under that."""
        if entry.place not in self._places:
            number = self._places[entry.place] = self._numbers.take(now_ns)
            self._numbers.hold(number)

    def _insert(self, entries: list[Entry], now_ns: int) -> None:
        work = [(entry, self._threads.submit(self._insert_rows, entry, now_ns)) for entry in entries if entry.rows]
        failed = [(entry, error) for entry, future in work if (error := future.exception()) is not None]
        for entry, error in failed:
            if isinstance(error, ClientError) and error.code in POISON:
                self._forget([entry.place])
                raise BadBatch(entry, one_line(error)) from None
        for _, error in failed:
            raise error
        for table in TABLES.values():
            if mine := [entry for entry, _ in work if entry.message.kind == table.name]:
                self._read_back(table, mine)
        failpoints.slow(sum(entry.rows for entry in entries))

    def _insert_rows(self, entry: Entry, now_ns: int) -> None:
        agent, epoch, seq = entry.place
        columns = with_origin([entry], self._places[entry.place], day_of(now_ns))
        again = self._again.get(entry.place, 0)
        self._server.insert(
            TABLES[entry.message.kind], columns, entry.rows,
            token=f"{agent}/{epoch:016x}/{seq}" + (f"/{again}" if again else ""),
            comment=f"nodetap-insert {self._numbers.hub} {agent}",
        )  # fmt: skip

    def _read_back(self, table: Table, entries: list[Entry]) -> None:
        """See that all rows are there, and under which commit: another hub may have been first. Raises StoreError."""
        for _ in range(LOOKS):
            found = self._find(table, entries)
            short = [entry for entry in entries if found.get(entry.place, (0, 0))[0] < entry.rows]
            if not short:
                break
            sleep(LOOK_AGAIN)
        else:
            self._disbelieve(short, found)
            agent, epoch, seq = short[0].place
            raise StoreError(
                f"{self} took {len(short)} batches whose rows cannot be read back yet, the first being {seq} of "
                f"{agent} ({epoch:016x}); trying again"
            )
        with self._lock:
            for entry in entries:
                self._renumber(entry.place, found[entry.place][1])

    def _disbelieve(self, short: Iterable[Entry], found: dict[Place, tuple[int, int]]) -> None:
        """A server by itself logs the token before it publishes the rows: killed between, it knows only the token.

        It reads what it wrote, so none of the rows is there. On a cluster a replica may lag, and only waiting is safe.
        """
        if not self.servers.cluster:
            for entry in short:
                if entry.place not in found:
                    self._again[entry.place] = self._again.get(entry.place, 0) + 1

    def _find(self, table: Table, entries: list[Entry]) -> dict[Place, tuple[int, int]]:
        """Place -> rows and their commit, of these entries and perhaps of others."""
        times = [np.asarray((entry.columns or {})[table.time]) for entry in entries]
        sql = (
            f"SELECT agent, epoch, seq, count(), max(commit) FROM {table.name} "
            f"WHERE {table.time} BETWEEN {{first:Int64}} AND {{last:Int64}} AND agent IN {{agents:Array(String)}} "
            "AND epoch IN {epochs:Array(UInt64)} AND seq BETWEEN {low:UInt64} AND {high:UInt64} "
            "GROUP BY agent, epoch, seq"
        )
        seqs = [entry.message.seq for entry in entries]
        values = {
            "first": min(int(time.min()) for time in times),
            "last": max(int(time.max()) for time in times),
            "agents": sorted({entry.message.agent for entry in entries}),
            "epochs": sorted({entry.message.epoch for entry in entries}),
            "low": min(seqs),
            "high": max(seqs),
        }
        rows = self._server.query(sql, values).result_rows
        return {(agent, epoch, seq): (count, commit) for agent, epoch, seq, count, commit in rows}

    def _renumber(self, place: Place, number: int) -> None:
        mine = self._places[place]
        if number != mine:
            self._numbers.release(mine)
            self._numbers.hold(number)
            self._places[place] = number

    def _forget(self, places: Iterable[Place]) -> None:
        with self._lock:
            for place in places:
                self._numbers.release(self._places.pop(place))
                self._again.pop(place, None)

    def _insert_lines(self, lines: list[Line]) -> None:
        comment = f"nodetap-lines {self._numbers.hub}"
        self._server.insert(ddl.BATCHES, [columns_of_lines(lines)], len(lines), comment=comment)
        with self._lock:
            self._add(lines)
        self._forget(place for line in lines if (place := (line.agent, line.epoch, line.seq)) in self._places)

    def _add(self, lines: Iterable[Line]) -> list[Line]:
        """Count those that are not counted yet, and return them."""
        new = []
        for line in lines:
            if line.seq not in self._books.run(line.agent, line.epoch).seqs:
                self._books.add([line])
                new.append(line)
        return new

    # -- other hubs ------------------------------------------------------------------------------------------------

    def takeover(self, agent: str, now_ns: int) -> list[Line]:
        """An agent came here: what other hubs stored of it that was not known here. Raises StoreError.

        What they have in flight for it is ended first. Ending may come too late, and a hub that was frozen may go on
        after it wakes: then it stores what it would have stored, once.
        """
        if not self._peers.known:
            return []
        theirs = ", ".join(f"'nodetap-insert {hub} {quoted(agent)}'" for hub in list(self._peers.known))
        with self._saying("cannot read"):
            self._server.everywhere(f"KILL QUERY WHERE Settings['log_comment'] IN ({theirs}) ASYNC")
            lines = self._learn("commit > {seen:UInt64} AND agent = {agent:String}", agent=agent)
            return lines + self._clear_up(self._shown, "agent = {agent:String}", now_ns, agent=agent)

    def _learn(self, where: str, **values: Any) -> list[Line]:
        """Lines that are stored and not known here; `where` may speak of `seen`."""
        sql = f"SELECT {_LINE} FROM {ddl.BATCHES.name} WHERE {where}"
        rows = self._server.query(sql, {"seen": min(self._seen, self._shown), **values}).result_rows
        return self._hear(Line(*row) for row in rows)

    def _hear(self, lines: Iterable[Line]) -> list[Line]:
        """Lines of others: counted, and kept until the listener is told. Returns those that were not known."""
        with self._lock:
            new = self._add(lines)
            self._untold += new
            return new

    def _clear_up(self, above: int, where: str, now_ns: int, **values: Any) -> list[Line]:
        """Write the lines of rows that have none, of commits above a number."""
        ours = f"bitAnd(commit, {STEP - 1}) != {self._numbers.hub}"
        held = (
            f"(agent, epoch, seq) GLOBAL NOT IN (SELECT agent, epoch, seq FROM {ddl.BATCHES.name} WHERE rows > 0 "
            "AND commit > {commit:UInt64})"
        )
        found = list(stored_rows.without_lines(self._server, above, f"{where} AND {ours} AND {held}", **values))
        if not found:
            return []
        with self._lock:
            lines = rebuild(found, self._books, {}, now_ns)
        self._server.insert(ddl.BATCHES, [columns_of_lines(lines)], len(lines), comment="nodetap-lines")
        return self._hear(lines)

    def _beat_on(self) -> None:
        while not self._ending.wait(BEAT):
            with suppress(ClientError, OSError, StoreError):  # the writer says what is wrong
                self.beat(time_ns())
                self._tell_connected(time_ns())
                if self._listener is not None:
                    elsewhere, wishes = self._elsewhere(), self.wishes()
                    with self._lock:
                        lines, self._untold = self._untold, []
                    self._listener(News(lines, self._shown, elsewhere, wishes))

    def beat(self, now_ns: int) -> None:
        """Say up to where our commits are whole, and hear what the others stored. Raises ClientError."""
        with self._beat_lock:
            self._say(now_ns)
            self._peers.saw(self._floors(), monotonic())
            for hub in self._peers.expired(monotonic()):
                self._bury(hub, now_ns)
            whole = self._whole(now_ns)
            self._read_news(whole)
            self._shown = whole  # once the books have what is shown

    def _say(self, now_ns: int, left: int = 0) -> None:
        with self._lock:
            if self._beats and monotonic() - self._said > EXPIRE / 2:
                self._numbers.start(now_ns, self._shown)  # the others may have given us up
            floor, self._said = self._numbers.floor(now_ns), monotonic()
        self._beats += 1
        self._tell(self._numbers.hub, floor, left, now_ns)

    def _tell(self, hub: int, floor: int, left: int, now_ns: int) -> None:
        columns: dict[str, Any] = {
            "hub": np.array([hub], "<u2"),
            "floor": np.array([floor], "<u8"),
            "at": np.array([now_ns], "<i8"),
            "left": np.array([left], "u1"),
            "api": text_of([self._api]),
        }
        self._server.insert(layout.HUBS, [columns], 1, comment="nodetap-hubs")

    def _tell_connected(self, now_ns: int) -> None:
        told, self._connected = self._connected, None
        if told is None:
            return
        count = len(told) + 1
        columns: dict[str, Any] = {
            "hub": np.full(count, self._numbers.hub, "<u2"),
            "agent": text_of(["", *(agent["agent"] for agent in told)]),
            "at": np.full(count, now_ns, "<i8"),
            "told": text_of(["", *(json.dumps(agent, separators=(",", ":")) for agent in told)]),
        }
        self._server.insert(layout.PRESENCE, [columns], count, comment="nodetap-hubs")

    def _elsewhere(self) -> dict[str, dict[str, Any]]:
        """The agents that are connected to another hub that lives."""
        if not self._peers.known:
            return {}
        sql = (
            "SELECT hub, agent, told FROM presence WHERE hub IN {hubs:Array(UInt16)} AND agent != '' "
            "AND (hub, at) GLOBAL IN (SELECT hub, max(at) FROM presence GROUP BY hub) "
            "ORDER BY JSONExtractString(told, 'since')"  # of two hubs that name one the later has it
        )
        rows = self._server.query(sql, {"hubs": list(self._peers.known)}).result_rows
        return {agent: {**json.loads(told), "hub": self._apis.get(hub, "")} for hub, agent, told in rows}

    def _floors(self) -> dict[int, int]:
        """What every other hub that has not left said last."""
        said = "max(floor) AS f, argMax(left, (floor, left)), argMax(api, at)"
        rows = self._server.query(f"SELECT hub, {said} FROM {layout.HUBS.name} GROUP BY hub").result_rows
        self._apis = {hub: api for hub, _, _, api in rows}
        return {hub: floor for hub, floor, left, _ in rows if not left and hub != self._numbers.hub}

    def _bury(self, hub: int, now_ns: int) -> None:
        """Clear up after a hub that says nothing any more; it does not hold up the others from now on."""
        floor = self._peers.known[hub].floor
        self._server.everywhere(f"KILL QUERY WHERE startsWith(Settings['log_comment'], 'nodetap-insert {hub} ') ASYNC")
        self._clear_up(floor - 1, f"bitAnd(commit, {STEP - 1}) = {hub}", now_ns)
        self._tell(hub, floor, 1, now_ns)
        del self._peers.known[hub]

    def _whole(self, now_ns: int) -> int:
        with self._lock:
            return max(self._shown, min([self._numbers.floor(now_ns), *self._peers.floors()]) - 1)

    def _read_news(self, whole: int) -> None:
        """Hear what others stored up to there."""
        back = OVERLAP_MS << BITS if self._beats % SEE_AGAIN == 0 else 0
        self._learn(
            f"commit > {max(0, self._seen - back)} AND commit <= {whole} "
            f"AND bitAnd(commit, {STEP - 1}) != {self._numbers.hub}"
        )
        self._seen = whole

    # -- what people want of agents --------------------------------------------------------------------------------

    def wishes(self) -> tuple[int, dict[str, dict[str, str]]]:
        """What is wanted of agents, and when that was said last. Raises StoreError."""
        with self._saying("cannot read"):
            sql = f"SELECT name, argMax(settings, at), max(at) FROM {layout.WISHES.name} GROUP BY name"
            rows = self._server.query(sql).result_rows
        found = {name: settings for name, text, _ in rows if (settings := json.loads(text)) is not None}
        return max([at for *_, at in rows], default=0), found

    def wish(self, name: str, settings: Mapping[str, str] | None, at: int) -> None:
        """Keep what is wanted of one name from now on, `at` being later than all before. Raises StoreError."""
        columns: dict[str, Any] = {
            "name": text_of([name]),
            "settings": text_of([json.dumps(settings)]),
            "at": np.array([at], "<i8"),
        }
        with self._saying("cannot write to"):
            self._server.insert(layout.WISHES, [columns], 1, comment="nodetap-wishes")

    # -- questions -------------------------------------------------------------------------------------------------

    def reader(self) -> AbstractContextManager[Any]:
        """A reader for a `with` block. Raises StoreBusy where none comes free in time."""
        return self._pool.borrow()

    # -- what is kept ----------------------------------------------------------------------------------------------

    def rolled(self, table: str) -> Rolled:
        """From what questions of a table can be answered."""
        return self._keeper.rolled(table)

    def roll(self, now_ns: int) -> int:
        """Roll up the periods of ingest that are closed, unless another hub does. Raises StoreError.

        Returns how many it were.
        """
        first = self._numbers.hub < min(self._peers.known, default=STEP)
        with self._saying("cannot roll up in"):
            return self._keeper.roll(self._shown, now_ns, rolls=first)

    def behind(self, now_ns: int) -> int:
        """Since how long a closed hour of ingest waits for this hub to roll it up, ns; 0 where none does."""
        return self._keeper.behind(now_ns)

    def retain(self, now_ns: int) -> list[str]:
        """Drop the days older than is kept, and the oldest while there are more bytes.

        Returns what was dropped, one line each. All hubs do it; what is gone already is no error. Raises StoreError.
        """
        with self._saying("cannot drop old rows of"):
            return self._keeper.retain(now_ns)

    def dropped(self) -> dict[Key, int]:
        """Packet rows of each run that retention dropped. Raises StoreError."""
        with self._saying("cannot count the rows of"):
            return self._keeper.dropped()

    def statistics(self) -> dict[str, dict[str, int]]:
        """Per table: rows, bytes on disk, parts, of one replica of each shard."""
        with self._saying("cannot count the rows of"):
            return retention.sums(self._keeper.parts())
