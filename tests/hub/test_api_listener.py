"""Who is let in at the people's listener, and for how long a connection is kept."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_server import Served, serve, wait_for

from hub.api import listener
from hub.api.listener import Crowd


def test_full_of_all_and_of_one() -> None:
    crowd = Crowd(4, 2)
    assert [crowd.enter("a") for _ in range(3)] == [0.5, 1.0, 1.5]
    assert crowd.enter("b") == 1.0
    assert crowd.enter("c") == 1.25
    for host in "aaa":
        crowd.leave(host)
    assert crowd.connections == 2
    assert crowd.enter("a") == 0.75


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(Crowd.__init__, "__defaults__", (4, 2))
    monkeypatch.setattr(listener, "ASKING", 1.0)
    with serve(tmp_path) as served:
        yield served


def connection(api: Served) -> socket.socket:
    port = int(api.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), 10)


def test_who_comes_to_a_full_hub_is_told_so_and_probes_are_answered(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "ASKING", 60.0)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connection(api))
        refused = api.get("/v1/agents")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["connection"] == "close"
        assert api.get("/healthz").status_code == 200
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
            assert other.get(api.url + "/v1/agents").status_code == 200
        held = [stack.enter_context(connection(api)) for _ in range(2)]
        with pytest.raises(httpx.TransportError):  # far too many: not let in
            api.get("/healthz")
        held[0].close()
        wait_for(lambda: _status(api, "/healthz") == 200)
    wait_for(lambda: _status(api, "/v1/agents") == 200)


def _status(api: Served, path: str) -> int:
    with contextlib.suppress(httpx.TransportError):
        return api.get(path).status_code
    return 0


@pytest.mark.parametrize("asked", [b"", b"GET /v1/agents HT", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/ag"])
def test_who_does_not_finish_asking_is_closed(api: Served, asked: bytes) -> None:
    with connection(api) as sock:
        sock.sendall(asked)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass


def test_an_answer_may_take_longer_than_a_question(api: Served) -> None:
    with httpx.stream("GET", api.url + "/v1/follow?heartbeat=1&seconds=3", timeout=10) as following:
        assert len(list(following.iter_lines())) >= 3


def test_connections_take_over_the_options_of_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SILENCE", 8.0)
    with listener.bind("127.0.0.1", 0) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8000
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
            assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        with pytest.raises(OSError, match="cannot listen on 127"):
            listener.bind(*listening.getsockname())
