"""An API server for tests: list, watch, TokenReview over HTTP, and the ways in which a real one fails.

It keeps what the protocol promises: one version number for all kinds, lists in pages with a token that expires, watches
that begin behind a version and bring every event after it in order, bookmarks, 410 for versions that are forgotten
(as a status, or as an ERROR in the stream), an end after `timeoutSeconds`. Faults are asked for by setting fields.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
KINDS = {"/api/v1/pods": "pods", "/api/v1/nodes": "nodes", "/api/v1/services": "services"}
LISTS = {"pods": "PodList", "nodes": "NodeList", "services": "ServiceList"}
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


class Faults:
    """What goes wrong, from now on."""

    def __init__(self) -> None:
        self.refuse: list[tuple[int, str]] = []  # the next requests: status, Retry-After
        self.silent = False  # watches that are open bring nothing more, new ones do
        self.mute = False  # nothing is answered at all
        self.gone_in_stream = False  # versions that are forgotten: an ERROR in the stream instead of HTTP 410
        self.expire_pages = 0  # so many continue tokens are refused


class ApiServer:
    """Objects by kind and what happened to them; `token` is what clients must show, empty for none."""

    def __init__(self, *, token: str = "", tls: ssl.SSLContext | None = None, bookmark: float = 1.0,
                 remember: int = 100_000) -> None:  # fmt: skip
        self.token, self.bookmark = token, bookmark
        self.faults = Faults()
        self.version = 1000
        self.oldest = 1000
        self.objects: dict[str, dict[str, Json]] = {kind: {} for kind in LISTS}
        self.log: dict[str, deque[tuple[int, str, bytes]]] = {kind: deque(maxlen=remember) for kind in LISTS}
        self.tokens: dict[str, Json] = {}  # what TokenReview says of a token: the status
        self.pages: dict[tuple[str, str], list[Json]] = {}  # lists that are being read
        self.requests: list[tuple[str, str]] = []  # (method and path, query)
        self.news = threading.Condition()
        self._epoch = 0  # watches of an older one are cut, or silent
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.cut()
        self._http.shutdown()
        self._http.server_close()

    # -- the cluster -----------------------------------------------------------------------------------------------

    def put(self, kind: str, item: Json) -> None:
        """An object is made or changed."""
        with self.news:
            what = "MODIFIED" if item["metadata"]["uid"] in self.objects[kind] else "ADDED"
            self._record(kind, what, item)
            self.objects[kind][item["metadata"]["uid"]] = self._versioned(item)

    def delete(self, kind: str, item: Json) -> None:
        """An object is gone."""
        with self.news:
            if self.objects[kind].pop(item["metadata"]["uid"], None):
                self._record(kind, "DELETED", item)

    def play(self, kind: str, what: str, item: Json) -> None:
        """One event of a script."""
        (self.delete if what == "DELETED" else self.put)(kind, item)

    def _versioned(self, item: Json) -> Json:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        about = {"resourceVersion": str(self.version), "managedFields": [{"manager": "test", "time": now}]}
        return item | {"metadata": item["metadata"] | about}

    def _record(self, kind: str, what: str, item: Json) -> None:
        self.version += 1
        line = json.dumps({"type": what, "object": self._versioned(item)}).encode() + b"\n"
        self.log[kind].append((self.version, what, line))
        self.news.notify_all()

    # -- what goes wrong -------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Versions up to now are forgotten."""
        with self.news:
            self.version += 1
            self.oldest = self.version
            for log in self.log.values():
                log.clear()

    def cut(self) -> None:
        """All watches end in the middle of a line."""
        with self.news:
            self._epoch += 1
            self.news.notify_all()

    def hush(self) -> None:
        """Watches that are open say nothing more; new ones do."""
        with self.news:
            self.faults.silent = True
            self._epoch += 1
            self.news.notify_all()


def _key(item: Json) -> str:
    return str(item["metadata"]["uid"])


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if not self._welcome():
                return
            kind = KINDS.get(urlsplit(self.path).path)
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            if kind is None:
                self._status(404, "the server could not find the requested resource")
            elif query.get("watch") in ("1", "true"):
                with suppress(ConnectionError, ssl.SSLError, OSError):
                    self._watch(kind, query)
            else:
                self._list(kind, query)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._welcome():
                return
            status = server.tokens.get(body["spec"]["token"], {"authenticated": False, "error": "invalid bearer token"})
            wanted, given = body["spec"].get("audiences") or [], status.get("audiences") or []
            if status.get("authenticated") and not set(wanted) & set(given):
                status = {"authenticated": False, "error": f"token audiences {given} is invalid for {wanted}"}
            self._json(201, body | {"status": status})

        def _welcome(self) -> bool:
            parts = urlsplit(self.path)
            server.requests.append((f"{self.command} {parts.path}", parts.query))
            while server.faults.mute:
                time.sleep(0.02)
            if server.faults.refuse:
                status, after = server.faults.refuse.pop(0)
                self._status(status, "made to fail", after)
                return False
            if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                self._status(401, "Unauthorized")
                return False
            return True

        def _json(self, status: int, body: Any, after: str = "") -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if after:
                self.send_header("Retry-After", after)
            self.end_headers()
            self.wfile.write(data)

        def _status(self, code: int, message: str, after: str = "") -> None:
            self._json(code, {"kind": "Status", "status": "Failure", "message": message, "code": code}, after)

        def _list(self, kind: str, query: dict[str, str]) -> None:
            begin, version, limit = 0, "", int(query.get("limit") or 0)
            if "continue" in query:
                start, version = query["continue"].split("-")
                begin = int(start)
                if server.faults.expire_pages > 0 or int(version) < server.oldest:
                    server.faults.expire_pages -= 1
                    self._status(410, "The provided continue parameter is too old")
                    return
            with server.news:  # further pages are of the same moment
                now = version or str(server.version)
                items = server.pages.get((kind, now)) or sorted(server.objects[kind].values(), key=_key)
            shown = items[begin : begin + limit] if limit else items
            about: Json = {"resourceVersion": now}
            if limit and begin + limit < len(items):
                about["continue"] = f"{begin + limit}-{now}"
                server.pages[kind, now] = items
                for old in list(server.pages)[:-8]:
                    del server.pages[old]
            else:
                server.pages.pop((kind, now), None)
            self._json(200, {"kind": LISTS[kind], "apiVersion": "v1", "metadata": about, "items": shown})

        def _watch(self, kind: str, query: dict[str, str]) -> None:
            after, epoch = int(query.get("resourceVersion") or 0), server._epoch
            gone = {"kind": "Status", "code": 410, "message": f"too old resource version: {after} ({server.oldest})"}
            if after < server.oldest and not server.faults.gone_in_stream:
                self._json(410, gone)
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if after < server.oldest:
                self._chunk(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                self._chunk(b"")
                return
            self._stream(kind, after, epoch, query)

        def _stream(self, kind: str, after: int, epoch: int, query: dict[str, str]) -> None:
            ends = time.monotonic() + float(query.get("timeoutSeconds") or 300)
            marks = query.get("allowWatchBookmarks") == "true"
            due = time.monotonic() + server.bookmark
            while (now := time.monotonic()) < ends:
                with server.news:
                    lines = self._lines(kind, after)
                    if not lines and server._epoch == epoch:
                        server.news.wait(min(0.5, ends - now))
                        lines = self._lines(kind, after)
                    version, old = server.version, server._epoch != epoch
                if old:
                    break
                if lines:
                    after = lines[-1][0]
                    self._chunk(b"".join(line for _, _, line in lines))
                elif marks and now >= due:
                    due, after = now + server.bookmark, version
                    mark = {"kind": kind, "metadata": {"resourceVersion": str(version)}}
                    self._chunk(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
            self._over(epoch)

        def _lines(self, kind: str, after: int) -> list[tuple[int, str, bytes]]:
            found: list[tuple[int, str, bytes]] = []
            for entry in reversed(server.log[kind]):
                if entry[0] <= after:
                    break
                found.append(entry)
            return found[::-1]

        def _over(self, epoch: int) -> None:
            if server._epoch == epoch:
                self._chunk(b"")
                return
            if server.faults.silent:
                while server.faults.silent:
                    time.sleep(0.05)
            self.wfile.write(b'ff\r\n{"type": "ADD')  # cut in the middle of a line
            self.wfile.flush()
            self.close_connection = True

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    return Handler
