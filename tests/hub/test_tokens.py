"""Token files: one token alone as it always was, or lines with roles."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.tokens import ADMIN, AGENT, CAPTURE, MAY, ONLY, READ, BadTokens, Tokens

FILE = """# who may what
agent   0a1b nodes

read    2c3d ana
capture 4e5f
admin   6a7b root
"""


@pytest.mark.parametrize("text", ["sesame", "sesame\n", "\n  sesame \n", "open sesame", "admin", "#sesame"])
def test_a_token_alone_may_everything(text: str) -> None:
    token = Tokens(text).holder(f"Bearer {text.strip()}")
    assert token is not None
    assert (token.role, token.name) == (ADMIN, ONLY)
    assert all(token.may(role) for role in MAY)


def test_lines_give_roles_and_names() -> None:
    tokens = Tokens(FILE)
    found = {secret: tokens.holder(f"bearer {secret}") for secret in ("0a1b", "2c3d", "4e5f", "6a7b")}
    assert [(token.role, token.name) for token in found.values() if token] == [
        (AGENT, "nodes"), (READ, "ana"), (CAPTURE, "line 5"), (ADMIN, "root"),
    ]  # fmt: skip
    for header in ("", "Bearer", "Bearer 0a1", "Basic 2c3d", "2c3d", "Bearer read", "Bearer ana", "Bearer 0a1b 2c3d"):
        assert tokens.holder(header) is None


def test_capture_includes_read_and_admin_everything_but_agents_only_send() -> None:
    assert MAY[AGENT] == {AGENT}
    assert MAY[READ] < MAY[CAPTURE] < MAY[ADMIN]
    assert MAY[ADMIN] == set(MAY)
    assert AGENT not in MAY[CAPTURE]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("# nothing\n# here\n", "it has no tokens"),
        ("read s3cret\nraed s3cret2\n", "line 2 begins with no role"),
        ("s3cret\nread s3cret2\n", "line 1 begins with no role"),
        ("read s3cret ana maria\n", "line 1 is not ROLE TOKEN"),
        ("admin s3cret\nread\n", "line 2 is not ROLE TOKEN"),
        ("read s3cret\nadmin s3cret\n", "a token is there twice"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(text: str, said: str) -> None:
    with pytest.raises(BadTokens, match=said) as raised:
        Tokens(text)
    assert "s3cret" not in str(raised.value)


@given(st.text())
def test_any_text_is_tokens_or_wrong(text: str) -> None:
    with suppress(BadTokens):
        assert Tokens(text).holder(f"Bearer {text}x") is None


@given(st.text())
def test_any_header_is_nobodys(header: str) -> None:
    assert Tokens(FILE.replace("0a1b", "q" * 64)).holder(header) is None
