"""The hub's token and certificate as their files are now: whoever renews them need not start the hub again.

Kubernetes renews a mounted Secret by writing new files, cert-manager a certificate weeks before it ends. New
connections get what is new; those that are open stay.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from hub.doctor.checks import CERTIFICATE_WARN
from hub.tokens import BadTokens, Tokens
from protocol.options import token_in

_OPEN = stat.S_IWGRP | stat.S_IRWXO
"""Modes that a file of secrets should not have; its group may read it, as in a pod that does not run as root."""


class Credentials:
    """What is read from --token-file, --tls-cert and --tls-key. Raises click.UsageError where it cannot be read."""

    def __init__(self, token_file: str | None, cert: str | None, key: str | None) -> None:
        self._token_file, self._pair = token_file, _pair(cert, key)
        self.token = read_token(token_file)
        self.tls = None if self._pair is None else _context(self._pair)
        self.ends = 0.0
        """When the certificate ends, seconds since 1970; 0 without TLS."""
        self.fingerprint = ""
        """SHA-256 of the certificate, by which hubs that share it know each other; empty without TLS."""
        self._read = self._bytes()
        self._know_end()

    def look(self) -> str:
        """Read again what has changed. Empty, or for the log what is new or why the old stays. Raises nothing.

        To be called in the loop that hands out connections, as it changes the context that they are made of.
        """
        now = self._bytes()
        if now == self._read:
            return ""
        self._read = now
        try:
            token = read_token(self._token_file)
            if self._pair is not None and self.tls is not None:
                _context(self._pair)  # a key that does not fit must not spoil the context in use
                self.tls.load_cert_chain(*self._pair)
        except click.UsageError as error:
            return f"the old ones stay: {error.message}"
        self.token = token
        self._know_end()
        return "token and certificate were read again"

    def ending(self, now: float) -> str:
        """Empty, or for the log that the certificate ends soon, or has: then nobody connects any more."""
        if not self.ends or self.ends - now > CERTIFICATE_WARN:
            return ""
        when = f"{datetime.fromtimestamp(self.ends, UTC):%Y-%m-%d %H:%M}Z"
        ended = f"has ended at {when} and everybody who checks it stays away" if now >= self.ends else f"ends at {when}"
        return f"the certificate {ended}: write a new one to --tls-cert and --tls-key, it is read without a restart"

    def open_files(self) -> list[str]:
        """Those of the token and the key that others may read or change."""
        secrets = (self._token_file, self._pair[1] if self._pair else None)
        return [path for path in secrets if path is not None and _mode(path) & _OPEN]

    def _bytes(self) -> tuple[bytes, ...]:
        return tuple(_bytes(path) for path in (self._token_file, *(self._pair or ())))

    def _know_end(self) -> None:
        if self._pair is not None:
            with suppress(OSError, ValueError, IndexError):
                pem = Path(self._pair[0]).read_text(encoding="ascii", errors="replace")
                self.ends, self.fingerprint = not_after(pem), hashlib.sha256(_first(pem)).hexdigest()


def read_token(path: str | None) -> str | None:
    """The text of a token file (`hub.tokens`), without surrounding white space. Raises click.UsageError."""
    if path is None:
        return None
    try:
        text = token_in(path, lambda path: Path(path).read_text(encoding="utf-8"))
        Tokens(text)
    except BadTokens as error:
        raise click.UsageError(f"cannot use the token file {path}: {error}") from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return text


def _pair(cert: str | None, key: str | None) -> tuple[str, str] | None:
    if (cert is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    return None if cert is None or key is None else (cert, key)


def _context(pair: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*pair)
    except (OSError, ssl.SSLError) as error:
        raise click.UsageError(f"cannot use the certificate {pair[0]} with the key {pair[1]}: {error}") from None
    return context


def _mode(path: str) -> int:
    with suppress(OSError):
        return os.stat(path).st_mode
    return 0


def _bytes(path: str | None) -> bytes:
    with suppress(OSError):
        return b"" if path is None else Path(path).read_bytes()
    return b""


# -- when a certificate ends: `ssl` tells it of a peer's alone, so we walk the few bytes of DER on the way to it -------

_UTC_TIME, _VERSION = 0x17, 0xA0


def _first(pem: str) -> bytes:
    end = pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    return ssl.PEM_cert_to_DER_cert(pem[pem.index(ssl.PEM_HEADER) : end])


def not_after(pem: str) -> float:
    """The end of the first certificate, seconds since 1970 (RFC 5280, 4.1). Raises ValueError, IndexError."""
    _, certificate, _ = _element(_first(pem))
    _, body, _ = _element(certificate)
    fields: list[bytes] = []
    while body and len(fields) < 5:
        kind, value, body = _element(body)
        if kind != _VERSION:
            fields.append(value)
    _, _, validity = _element(fields[3])  # serial number, algorithm, issuer, validity
    kind, value, _ = _element(validity)
    return _time(kind, value.decode("ascii"))


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """The tag and the content of the first element, and what follows it (X.690, 8.1)."""
    size, at = der[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(der[2:at], "big")
    return der[0], der[at : at + size], der[at + size :]


def _time(kind: int, text: str) -> float:
    if kind == _UTC_TIME:  # two digits of the year: RFC 5280, 4.1.2.5.1
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
