"""Options that mean the same to all programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.options import host_port, is_loopback, own_token, token_in


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("hub:65535", ("hub", 65535))],
)
def test_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert host_port(text) == parts


@pytest.mark.parametrize("text", ["", "hub", ":80", "hub:", "hub:x", "hub:-1", "hub:65536", "hub:²"])
def test_what_is_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        host_port(text)


def test_this_machine() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "hub", "")))


def test_a_token_file() -> None:
    assert token_in("f", lambda path: f" {path}\n") == "f"
    with pytest.raises(ValueError, match="the token file f is empty"):
        token_in("f", lambda path: "\n")
    with pytest.raises(ValueError, match=r"^cannot read the token file f: No such"):
        token_in("f", lambda path: Path("/no/such/file").read_text())
    with pytest.raises(ValueError, match="cannot read the token file f: 'utf-8'"):
        token_in("f", lambda path: b"\xff".decode())


@pytest.mark.parametrize(
    ("text", "error"),
    [("admin a\nread b", "several lines"), ("tök", "printable"), ("a\tb", "printable"), ("", "empty")],
)
def test_a_token_that_cannot_be_shown(text: str, error: str) -> None:
    assert own_token("f", lambda path: " a b\n") == "a b"
    with pytest.raises(ValueError, match=f"^the token file f .*{error}"):
        own_token("f", lambda path: text)
