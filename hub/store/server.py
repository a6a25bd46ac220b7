"""ClickHouse servers over HTTP: connections, inserts, what their errors mean.

The hosts hold the same store. One is used until it cannot be reached; then the next. A question is asked again there;
an insert is not, as it may have been done: whoever asked for it repeats it, with the same token.

Any thread may call everything here.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import clickhouse_connect
from clickhouse_connect.driver.exceptions import Error as ClientError
from clickhouse_connect.driver.httputil import get_pool_manager

from hub.store import native
from hub.store.address import Servers
from hub.store.cluster_ddl import target
from hub.store.ddl import STORED, columns_of
from hub.store.engine import INSERT, one_line
from hub.store.errors import StoreError
from protocol.columns import Columns
from protocol.schema import Table

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")

CONNECT_TIMEOUT = 5
CONNECTIONS = 24
"""Connections to one host that are kept."""

ADVICE = {
    60: "a table is missing: let a hub make them, or give its user the right to",
    81: "the database is missing: create it, or give the hub's user the right to",
    115: "the server is older than what nodetap needs",
    159: "the server took too long",
    164: "the hub's user may only read",
    202: "the server has too many queries",
    210: "a server of the cluster cannot be reached",
    225: "the server has lost Keeper",
    241: "the server is out of memory",
    242: "the table can only be read: the server has lost Keeper, or its disk",
    243: "the server's disk is full",
    252: "the server cannot merge as fast as it is given: too many parts",
    279: "no server of a shard can be reached",
    285: "fewer replicas are alive than the quorum needs",
    286: "the quorum did not confirm in time",
    319: "the server does not know whether the insert was done",
    497: "the hub's user lacks a right",
    516: "user or password are wrong",
    701: "the server knows no cluster of that name",
    999: "Keeper does not answer",
}
"""ClickHouse error number -> what it says of the servers. All of them wait: the batch stays with its agent."""

_INSERT = {
    **{name: value for name, value in INSERT.items() if name not in ("insert_deduplicate", "max_threads")},
    "insert_deduplicate": 1,
    "distributed_foreground_insert": 1,  # the answer comes once the shard has it
    "load_balancing": "in_order",  # what was written is read where it was written, as long as that is alive
    "fallback_to_stale_replicas_for_distributed_queries": 0,
}

logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # what it has to say comes as exceptions


class Server:
    """The servers of one store."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self._clients: dict[int, Any] = {}
        self._present = 0
        self._lock = threading.Lock()

    # -- connections -----------------------------------------------------------------------------------------------

    def client(self, host: int) -> Any:
        """A client of the host with that number, made when first needed. Raises ClientError."""
        with self._lock:
            if host not in self._clients:
                self._clients[host] = self._connect(host)
            return self._clients[host]

    def _connect(self, host: int) -> Any:
        servers = self.servers
        name, port = servers.hosts[host]
        pool = get_pool_manager(maxsize=CONNECTIONS, block=False, **({"ca_cert": servers.ca} if servers.ca else {}))
        return clickhouse_connect.get_client(
            host=name, port=port, username=servers.user, password=servers.password,
            interface="https" if servers.secure else "http", connect_timeout=CONNECT_TIMEOUT,
            send_receive_timeout=int(servers.timeout) + 1, autogenerate_session_id=False, query_retries=0,
            pool_mgr=pool, compress="zstd", show_clickhouse_errors=True, client_name="nodetap-hub",
            settings={"load_balancing": "in_order"},
        )  # fmt: skip

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    # -- questions -------------------------------------------------------------------------------------------------

    def ask(self, work: Callable[[Any], T]) -> T:
        """`work` with a client; once more with that of each other host where one cannot be reached.

        Raises ClientError.
        """
        hosts = len(self.servers.hosts)
        for attempt in range(hosts):
            host = self._present
            try:
                return work(self._ready(host))
            except ClientError as error:
                if not unreachable(error) or attempt == hosts - 1:
                    raise
                self._leave(host)
        raise AssertionError("there is at least one host")

    def _ready(self, host: int) -> Any:
        client = self.client(host)
        client.database = self.servers.database
        return client

    def _leave(self, host: int) -> None:
        """That host cannot be reached: the next one is used."""
        with self._lock:
            if self._present == host:
                self._present = (host + 1) % len(self.servers.hosts)

    def query(
        self, sql: str, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> Any:
        """The whole answer. Raises ClientError."""
        limits = {"max_execution_time": self.servers.timeout, **(settings or {})}
        return self.ask(lambda client: client.query(sql, parameters=dict(parameters or {}), settings=limits))

    def command(self, sql: str, *, use_database: bool = True) -> Any:
        """A statement that can be said twice. Raises ClientError."""
        return self.ask(lambda client: client.command(sql, use_database=use_database))

    def everywhere(self, sql: str) -> None:
        """A statement to every host that can be reached."""
        for host in range(len(self.servers.hosts)):
            try:
                self._ready(host).command(sql)
            except ClientError:
                continue

    # -- inserts ---------------------------------------------------------------------------------------------------

    def insert(self, table: Table, parts: Sequence[Columns], rows: int, *, token: str = "", comment: str = "") -> None:
        """Store rows as one block; on disk, and where the quorum wants it, when this returns.

        With a token that the servers have seen, nothing is stored and nothing raised. Raises ClientError; whether the
        rows are stored is then not known.
        """
        columns = native.used(columns_of(table) if table.name in STORED else table.columns, parts)
        block = zstd.compress(b"".join(native.block(columns, parts, rows)), 1)
        host = self._present
        try:
            self._ready(host).raw_insert(
                target(table.name),
                [column.name for column in columns],
                block,
                settings=self._settings(token, comment),
                fmt="Native",
                compression="zstd",
            )
        except ClientError as error:
            if unreachable(error):
                self._leave(host)
            raise

    def _settings(self, token: str, comment: str) -> dict[str, Any]:
        servers = self.servers
        settings = {**_INSERT, "log_comment": comment, "max_execution_time": servers.timeout}
        if token:
            settings["insert_deduplication_token"] = token
        if servers.quorum > 1:
            settings |= {"insert_quorum": servers.quorum, "insert_quorum_timeout": int(servers.timeout * 1000)}
        return settings


def unreachable(error: ClientError) -> bool:
    """Whether no server answered: an answer has a number."""
    return error.code is None


def store_error(servers: Servers, what: str, error: BaseException) -> StoreError:
    """An error of the servers in one line that says what to do."""
    code = getattr(error, "code", None)
    advice = ADVICE.get(code or 0, "") or ("no server answers" if code is None else "")
    detail = one_line(error).replace(servers.password or "\0", "***")
    return StoreError(f"{what} {servers}: {advice + ': ' if advice else ''}{detail}")
