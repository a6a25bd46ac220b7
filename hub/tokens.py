"""Who may do what: tokens with roles, as a file has them. Pure.

A file with one token alone is the hub's token as it always was: agents and people show it, and it may do everything.
Otherwise each line is `ROLE TOKEN [NAME]`; empty lines and lines that begin with # are skipped.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256

AGENT, READ, CAPTURE, ADMIN = "agent", "read", "capture", "admin"
MAY: dict[str, frozenset[str]] = {
    AGENT: frozenset({AGENT}),
    READ: frozenset({READ}),
    CAPTURE: frozenset({READ, CAPTURE}),
    ADMIN: frozenset({AGENT, READ, CAPTURE, ADMIN}),
}
"""Role -> what its holder may: `agent` sends, `read` asks, `capture` gets raw frames, `admin` forgets agents."""

ONLY = "the token"
"""The name of a token that is alone in its file."""


class BadTokens(ValueError):
    """The text of a token file is wrong; one line says how."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token: who has it and what for. `digest` is its SHA-256: the secret itself is not kept."""

    role: str
    name: str
    digest: bytes

    def may(self, what: str) -> bool:
        """Whether its holder may do what takes the role `what`."""
        return what in MAY[self.role]


class Tokens:
    """The tokens of a hub."""

    def __init__(self, text: str) -> None:
        """Of the text of a file. Raises BadTokens, which never quotes what may be a secret."""
        self._tokens = _parse(text)

    def holder(self, authorization: str) -> Token | None:
        """The token of an `Authorization: Bearer TOKEN` header; the time it takes says nothing of the others."""
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found if scheme.lower() == "bearer" else None


def tokens_of(text: str | None) -> Tokens | None:
    """The tokens of a hub that may have none."""
    return None if text is None else Tokens(text)


def _parse(text: str) -> tuple[Token, ...]:
    lines = [(number, words) for number, line in enumerate(text.splitlines(), 1) if (words := line.split())]
    if not lines:
        raise BadTokens("it is empty")
    if len(lines) == 1 and (len(lines[0][1]) == 1 or lines[0][1][0] not in MAY):
        return (Token(ADMIN, ONLY, _digest(text.strip())),)
    tokens = tuple(_token(number, words) for number, words in lines if not words[0].startswith("#"))
    if not tokens:
        raise BadTokens("it has no tokens")
    if len({token.digest for token in tokens}) < len(tokens):
        raise BadTokens("a token is there twice: each has one role")
    return tokens


def _token(number: int, words: list[str]) -> Token:
    if words[0] not in MAY:
        raise BadTokens(f"line {number} begins with no role: write {', '.join(MAY)}, then the token, then a name")
    if not 2 <= len(words) <= 3:
        raise BadTokens(f"line {number} is not ROLE TOKEN [NAME]")
    return Token(words[0], words[2] if len(words) == 3 else f"line {number}", _digest(words[1]))


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()
