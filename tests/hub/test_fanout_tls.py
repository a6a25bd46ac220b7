"""Hubs over one store know each other by the certificate that they share, on real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hub.credentials import Credentials
from hub.fanout.peers import Caller, Peers
from hub.pcap.fetcher import LineLost
from protocol.messages import Fetch
from tests.certificates import self_signed

CALLER = Caller("Bearer secret", "192.0.2.7")


class Pair:
    """A certificate and its key, in files."""

    def __init__(self, folder: Path, name: str, **what: Any) -> None:
        self.cert, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        self.pem, key = self_signed(**what)
        self.cert.write_bytes(self.pem)
        self.key.write_bytes(key)

    def credentials(self) -> Credentials:
        return Credentials(None, str(self.cert), str(self.key))


class Other:
    """Another hub, which answers what it was asked with; `asked` are path and headers. `tls` None: without TLS."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' * (tls is not None)}://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join(10)
        self.server.server_close()


def _handler(other: Other) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            other.asked.append((self.path, dict(self.headers)))
            body = json.dumps({"agents": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _do

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                return  # whoever asked does not like the certificate

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    return Handler


@pytest.fixture
def others() -> Iterator[Any]:
    with ExitStack() as stack:

        def made(tls: ssl.SSLContext | None) -> Other:
            other = Other(tls)
            stack.callback(other.stop)
            return other

        yield made


def asked(peers: Peers, caller: Caller = CALLER) -> dict[str, Any]:
    return asyncio.run(peers.ask(caller, "/v1/doctor", {"deadline": "1"}, 20.0))


def peers_of(other: Other, credentials: Credentials) -> Peers:
    return Peers(lambda: {"a": {"hub": other.url, "connection": "c1"}}, lambda: credentials.fingerprint)


def test_the_fingerprint_is_that_of_the_certificate_that_is_shown_first(tmp_path: Path) -> None:
    """Behind it in the file may stand those who signed it."""
    mine, authority = Pair(tmp_path, "mine"), Pair(tmp_path, "authority")
    mine.cert.write_bytes(mine.pem + authority.pem)
    shown = ssl.PEM_cert_to_DER_cert(mine.pem.decode())
    assert mine.credentials().fingerprint == hashlib.sha256(shown).hexdigest()


def test_a_hub_with_the_same_certificate_is_asked_whatever_its_address(tmp_path: Path, others: Any) -> None:
    """No name and no address of it stands in the certificate, and nobody has signed it."""
    mine = Pair(tmp_path, "mine", names=("hub.example",), addresses=())
    credentials = mine.credentials()
    other = others(credentials.tls)
    assert asked(peers_of(other, credentials)) == {other.url: {"agents": []}}
    ((path, headers),) = other.asked
    assert (path, headers["Authorization"], headers["nodetap-hop"]) == (
        "/v1/doctor?deadline=1", "Bearer secret", "192.0.2.7",
    )  # fmt: skip


@pytest.mark.parametrize("whose", ["a stranger's", "one for the same names", "none"])
def test_who_shows_another_certificate_hears_nothing(tmp_path: Path, others: Any, whose: str) -> None:
    """Neither the question nor the caller's token; also not where a part of an agent's frames is asked for."""
    credentials = Pair(tmp_path, "mine").credentials()
    what: dict[str, Any] = {"names": ("elsewhere",), "addresses": ()} if whose == "a stranger's" else {}
    other = others(None if whose == "none" else Pair(tmp_path, "other", **what).credentials().tls)
    peers = peers_of(other, credentials)
    ((url, why),) = asked(peers).items()
    assert (url, isinstance(why, str)) == (other.url, True), why
    assert "certificate" in why.lower() or "fingerprint" in why.lower(), why

    async def fetch() -> None:
        line = peers.lines(CALLER)("a")
        assert line is not None
        await peers.fetcher.fetch(line, Fetch(peers.fetcher.number(), 1, "", size=1 << 16, within=5.0), 20.0)

    with pytest.raises(LineLost):
        asyncio.run(fetch())
    assert other.asked == []


def test_a_new_certificate_is_asked_for_as_soon_as_it_is_read(tmp_path: Path, others: Any) -> None:
    """Replicas renew it one after the other: who has the old one still is not asked, and then is."""
    mine, new = Pair(tmp_path, "mine"), Pair(tmp_path, "new")
    here, there = mine.credentials(), mine.credentials()
    other = others(there.tls)
    peers = peers_of(other, here)
    assert asked(peers)[other.url] == {"agents": []}
    mine.cert.write_bytes(new.cert.read_bytes())
    mine.key.write_bytes(new.key.read_bytes())
    assert "read again" in here.look()
    assert isinstance(asked(peers)[other.url], str)
    assert "read again" in there.look()
    assert asked(peers)[other.url] == {"agents": []}
    assert len(other.asked) == 2
