"""ClickHouse's HTTP interface over chDB, for tests: a process of its own that hubs use as if it were a server.

    python server.py PORT DIRECTORY CONTROL

What is the engine's own: the SQL, types, parameters, formats, errors and their numbers, MergeTree, ReplacingMergeTree,
views with FINAL, KILL QUERY, and deduplication by token (that of MergeTree without replicas, whose log of tokens is as
large as the statement says for replicas).

What is made up here: `ON CLUSTER`, `Replicated...` and `cluster(...)` are taken out of statements and a Distributed
table becomes an Alias of the local one: there is one shard, one replica, and no Keeper. Sessions are taken and have no
effect, as nothing of ours needs one. Users and passwords: `default` with USER's password, `secret`.

CONTROL is a folder of switches that tests flip by making files:
    error         every insert fails with the ClickHouse error number that the file holds
    hold          an insert whose comment holds the file's text waits, with all its data here, until the file is gone
    holding       is made when one waits
    lost          an insert whose comment holds the file's text is done, and its connection closed without an answer
"""

from __future__ import annotations

import base64
import gzip
import json
import queue
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import chdb
import lz4.frame

try:
    from compression import zstd
except ImportError:
    from backports import zstd

USER, PASSWORD = "default", "secret"
TRANSPORT = frozenset({
    "query", "database", "user", "password", "session_id", "session_timeout", "session_check", "query_id", "quota_key",
    "compress", "decompress", "wait_end_of_query", "buffer_size", "client_protocol_version", "role", "default_format",
    "enable_http_compression",
})  # fmt: skip
"""Parameters of a request that are no settings of the query."""
UNPACK = {"zstd": zstd.decompress, "gzip": gzip.decompress, "lz4": lz4.frame.decompress, "": bytes, "identity": bytes}
PACK = {"zstd": lambda data: zstd.compress(data, 1), "gzip": gzip.compress, "lz4": lz4.frame.compress}
CODE = re.compile(r"Code: (\d+)")

REWRITES = (
    (re.compile(r" ON CLUSTER `[^`]+`"), ""),
    (re.compile(r"Replicated((?:Replacing)?MergeTree)"), r"\1"),
    (re.compile(r"replicated_deduplication_window_seconds = \d+"), "index_granularity = 8192"),
    (re.compile(r"(?<!_)replicated_deduplication_window ="), "non_replicated_deduplication_window ="),
    (re.compile(r"AS (\w+) ENGINE = Distributed\(.*\)$"), r"ENGINE = Alias('\1')"),
    (re.compile(r"cluster\('\w+', (system\.\w+)\)"), r"\1"),
)
UNDONE = re.compile(r"^ALTER TABLE (\w+)(?<!_local) ADD COLUMN")
"""An Alias has the columns of its table."""


def rewritten(sql: str) -> str:
    for pattern, replacement in REWRITES:
        sql = pattern.sub(replacement, sql)
    return sql


class EngineError(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        match = CODE.search(text)
        self.code = int(match[1]) if match else 1002


class Engine:
    """Handles to one chDB; each runs one query at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.tmp = path.parent / f"{path.name}.tmp"
        self.tmp.mkdir(exist_ok=True)

    @contextmanager
    def handle(self, database: str) -> Iterator[Any]:
        try:
            connection = self._free.get_nowait()
        except queue.Empty:
            connection = chdb.connect(f"{self._path}?max_server_memory_usage_to_ram_ratio=0.5&background_pool_size=2")
        try:
            connection.query(f"USE `{database or 'default'}`")
            yield connection
        finally:
            self._free.put(connection)

    def ask(self, database: str, sql: str, fmt: str, params: dict[str, str]) -> bytes:
        try:
            with self.handle(database) as connection:
                return bytes(connection.query(sql, fmt, params=params).bytes())
        except Exception as error:
            raise EngineError(str(error)) from None


def settings_of(values: dict[str, str]) -> str:
    chosen = {k: v for k, v in values.items() if k not in TRANSPORT and not k.startswith("param_")}
    for name in ("send_progress_in_http_headers", "http_headers_progress_interval_ms",
                 "cancel_http_readonly_queries_on_client_close"):  # fmt: skip
        chosen.pop(name, None)
    return ", ".join(f"{k} = '{_escaped(v)}'" for k, v in chosen.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine
    control: Path

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/ping":
            return self._answer(200, b"Ok.\n")
        return self._query(b"")

    def do_POST(self) -> None:
        self._query(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return UNPACK[self.headers.get("Content-Encoding", "")](data)

    def _query(self, body: bytes) -> None:
        found = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        values = {name: given[-1] for name, given in found.items()}
        if not self._known(values):
            return self._refuse(516, "default: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)")
        try:
            text, data = (values["query"], body) if "query" in values else (body.decode(), b"")
            insert = re.match(r"\s*INSERT INTO", text)
            if insert and "query" not in values:  # the data follow the statement
                head, _, data = body.partition(b"\n")
                text = head.decode()
            return self._insert(text, data, values) if insert else self._ask(text, values)
        except EngineError as error:
            return self._refuse(error.code, str(error))
        except ConnectionError:
            return None

    def _known(self, values: dict[str, str]) -> bool:
        scheme, _, code = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            return base64.b64decode(code).decode() == f"{USER}:{PASSWORD}"
        user = self.headers.get("X-ClickHouse-User", values.get("user", ""))
        return (user, self.headers.get("X-ClickHouse-Key", values.get("password", ""))) == (USER, PASSWORD)

    def _ask(self, text: str, values: dict[str, str]) -> None:
        match = re.search(r"\s+FORMAT\s+(\w+)\s*;?\s*$", text)
        fmt = match[1] if match else self.headers.get("X-ClickHouse-Format", values.get("default_format", "TSV"))
        sql = rewritten(text[: match.start()] if match else text).strip()
        found = UNDONE.match(sql)
        if found and self._is_alias(found[1], values):
            return self._answer(200, b"")
        settings = settings_of(values)
        if settings and re.match(r"\s*(SELECT|WITH)\b", sql):
            sql += f", {settings}" if re.search(r"\sSETTINGS\s[^)]*$", sql) else f"\nSETTINGS {settings}"
        params = {name.removeprefix("param_"): value for name, value in values.items() if name.startswith("param_")}
        return self._answer(200, self.engine.ask(values.get("database", ""), sql, fmt, params), fmt)

    def _is_alias(self, table: str, values: dict[str, str]) -> bool:
        sql = f"SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = '{table}_local'"
        return self.engine.ask(values.get("database", ""), sql, "TSV", {}).strip() == b"1"

    def _insert(self, text: str, data: bytes, values: dict[str, str]) -> None:
        match = re.search(r"\s+FORMAT\s+(\w+)\s*$", text)
        if match is None:  # of values, or of a question's answer
            self._ask(text, values)
            return
        comment = values.get("log_comment", "")
        if code := self._switch("error"):
            raise EngineError(f"Code: {int(code)}. DB::Exception: as the test wants it")
        while (held := self._switch("hold")) and held in comment:
            (self.control / "holding").touch()
            time.sleep(0.02)
        with tempfile.NamedTemporaryFile(dir=self.engine.tmp, buffering=0) as file:
            file.write(data)
            sql = f"{rewritten(text[: match.start()])} FROM INFILE '{file.name}' SETTINGS {settings_of(values)}"
            self.engine.ask(values.get("database", ""), f"{sql} FORMAT {match[1]}", "TSV", {})
        if (lost := self._switch("lost")) and lost in comment:
            self.close_connection = True
            self.connection.close()
            raise ConnectionAbortedError
        self._answer(200, b"")

    def _switch(self, name: str) -> str:
        try:
            return (self.control / name).read_text()
        except FileNotFoundError:
            return ""

    def _refuse(self, code: int, text: str) -> None:
        status = {516: 403, 497: 403, 60: 404, 159: 408, 202: 503}.get(code, 500)
        self._answer(status, text.encode(), headers={"X-ClickHouse-Exception-Code": str(code)})

    def _answer(self, status: int, data: bytes, fmt: str = "TSV", headers: dict[str, str] | None = None) -> None:
        encoding = next((e for e in PACK if e in self.headers.get("Accept-Encoding", "")), "")
        if encoding and data and status == 200:
            data = PACK[encoding](data)
        else:
            encoding = ""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("X-ClickHouse-Format", fmt)
        self.send_header("X-ClickHouse-Summary", json.dumps({"read_rows": "0", "written_rows": "0"}))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True


def main() -> None:
    port, directory = int(sys.argv[1]), Path(sys.argv[2])
    Handler.engine = Engine(directory)
    Handler.control = Path(sys.argv[3])
    with Handler.engine.handle("default"):
        Listener(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
