"""Errors of real connections in words for people."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from procs import free_port

from protocol.trouble import HINTS, hint, pause, plain


def refused() -> str:
    async def connect() -> None:
        await asyncio.open_connection("127.0.0.1", free_port())

    with pytest.raises(ConnectionRefusedError) as caught:
        asyncio.run(connect())
    return str(caught.value)


def test_nobody_listens() -> None:
    assert plain(refused()) == "connection refused"
    assert "whether the hub runs" in hint(refused())
    assert "whether the hub runs" in hint("[Errno 111] Connection refused")


def test_a_server_without_tls() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ssl.SSLError) as caught:
            ssl.create_default_context().wrap_socket(ours, server_hostname="hub")
    assert "no TLS" in hint(str(caught.value))


@pytest.mark.parametrize(
    ("said", "words", "todo"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1006)",
         "certificate has expired", "--tls-cert"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)",
         "self-signed certificate", "--tls-ca"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'a'. (_ssl.c:1006)",
         "Hostname mismatch, certificate is not valid for 'a'.", "a name that is in its certificate"),
        ("did not receive a valid HTTP response", "did not receive a valid HTTP response", "wss://"),
        ("[Errno -2] Name or service not known", "Name or service not known", ""),
    ],
)  # fmt: skip
def test_words_and_what_to_do(said: str, words: str, todo: str) -> None:
    assert plain(said) == words
    assert todo in hint(said)
    assert bool(hint(said)) == bool(todo)


def test_each_hint_is_found_by_its_part() -> None:
    assert all(hint(part) for part, _ in HINTS)


def test_a_process_that_did_not_run_says_why() -> None:
    assert pause(24.71, 0.0)["reason"].startswith("it was stopped, or had no processor")
    assert pause(4.0, 3.9) == {"seconds": 4.0, "cpu_s": 3.9, "reason": pause(1.0, 1.0)["reason"]}
