"""Requests to the Kubernetes API server. The only module that knows urllib3, which the store's client brings along."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import urllib3

import protocol
from hub.k8s.objects import SECOND
from hub.k8s.place import Server
from hub.k8s.reflector import Refused

PATHS = {"pods": "/api/v1/pods", "nodes": "/api/v1/nodes", "services": "/api/v1/services"}
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"

CONNECT = 5.0
READ = 30.0
"""Seconds without a byte of a plain answer."""
SILENT = 120.0
"""The same of a watch; it is replaced sooner (`hub.k8s.reflector`), this is for when that fails too."""
_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]

ERRORS = (urllib3.exceptions.HTTPError, OSError, ValueError)
"""What a request that failed may raise, beside Refused."""


class Api:
    """A client of one API server, for any thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pool: urllib3.PoolManager | None = None
        self._authority = 0.0

    def _manager(self) -> urllib3.PoolManager:
        """The pool; a new one where the certificate authority's file has changed."""
        file = self._server.ca_file
        changed = os.stat(file).st_mtime if file else 0.0
        if self._pool is None or changed != self._authority:
            self._authority = changed
            self._pool = urllib3.PoolManager(
                maxsize=8, retries=False, socket_options=_KEEPALIVE, ca_certs=file,
                headers={"User-Agent": f"nodetap-hub/{protocol.VERSION}", "Accept": "application/json"},
            )  # fmt: skip
        return self._pool

    def _send(self, method: str, path: str, read: float, **more: Any) -> urllib3.BaseHTTPResponse:
        pool = self._manager()
        headers = dict(pool.headers)
        if self._server.token_file:
            headers["Authorization"] = f"Bearer {Path(self._server.token_file).read_text().strip()}"
        response = pool.request(
            method, self._server.url + path, headers=headers, redirect=False, preload_content=False,
            timeout=urllib3.Timeout(connect=CONNECT, read=read), **more,
        )  # fmt: skip
        if not 200 <= response.status < 300:
            raise _refused(response)
        return response

    def get(self, path: str, query: Mapping[str, str], read: float = READ) -> Any:
        """A JSON answer. Raises Refused and ERRORS."""
        return _whole(self._send("GET", path, read, fields=dict(query)))

    def post(self, path: str, body: Any) -> Any:
        """A JSON answer to a JSON body. Raises Refused and ERRORS."""
        return _whole(self._send("POST", path, CONNECT, json=body))

    def watch(self, path: str, query: Mapping[str, str]) -> Watch:
        """An open watch. Raises Refused and ERRORS."""
        return Watch(self._send("GET", path, SILENT, fields=dict(query)))


class Watch:
    """A stream of lines."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def lines(self) -> Iterator[list[bytes]]:
        """Whole lines as they come, those that came together. Raises ERRORS."""
        rest = b""
        try:
            for chunk in self._response.stream(1 << 20):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield [line for line in lines if line]
        finally:
            self._response.close()

    def cut(self) -> None:
        """End it from another thread: `lines` returns or raises."""
        with suppress(ValueError, OSError, RuntimeError):  # it may have ended by itself
            self._response.shutdown()


def _whole(response: urllib3.BaseHTTPResponse) -> Any:
    try:
        return json.loads(response.data)
    finally:
        response.release_conn()


def _refused(response: urllib3.BaseHTTPResponse) -> Refused:
    """What an answer that is an error says."""
    try:
        data = response.read(1 << 16)
        text = json.loads(data).get("message") or response.reason
    except (*ERRORS, AttributeError):
        text = response.reason
    finally:
        response.close()
    wait = response.headers.get("Retry-After", "")
    return Refused(response.status, str(text)[:300], int(wait) * SECOND if wait.isdecimal() and len(wait) < 5 else 0)
