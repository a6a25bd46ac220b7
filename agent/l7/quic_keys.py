"""Opening QUIC Initial packets (RFC 9001, 5.2 and 5.4; RFC 9369 for version 2).

Their keys come from the connection id that the client chose, so every observer has them. Needs `cryptography`; without
it nothing is opened.
"""

from __future__ import annotations

from functools import cache
from hmac import digest
from typing import Any, NamedTuple

V1, V2 = 0x00000001, 0x6B3343CF
_DRAFT_29 = bytes.fromhex("afbfec289993d24c9e9786f19c6111e04390a899")
SALTS = {
    V1: bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    V2: bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
    **{0xFF000000 + draft: _DRAFT_29 for draft in range(29, 33)},
}
SAMPLE = 16


class Opened(NamedTuple):
    """An Initial packet without its protection."""

    number: int
    frames: bytes


@cache
def _library() -> tuple[Any, Any, type[Exception]] | None:
    """AES-GCM, a maker of AES block encryptors, and what a wrong key raises. Loaded when the first packet needs it."""
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import ECB
    except ImportError:
        return None
    return AESGCM, lambda key: Cipher(AES(key), ECB()).encryptor(), InvalidTag


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1) of at most 32 bytes, without context."""
    label = b"tls13 " + label
    return digest(secret, bytes((0, size, len(label))) + label + b"\0\1", "sha256")[:size]


class Keys:
    """What one side protects its Initial packets with."""

    __slots__ = ("_invalid", "_iv", "_mask", "_open")

    def __init__(self, secret: bytes, version: int) -> None:
        library = _library()
        assert library is not None
        gcm, ecb, self._invalid = library
        name = b"quicv2 " if version == V2 else b"quic "
        self._open = gcm(_expand(secret, name + b"key", 16)).decrypt
        self._iv = int.from_bytes(_expand(secret, name + b"iv", 12))
        self._mask = ecb(_expand(secret, name + b"hp", 16)).update

    def open(self, packet: bytes, at: int) -> Opened | None:
        """One packet whose protected number begins at byte `at`; None where the keys are not its."""
        sample = packet[at + 4 : at + 4 + SAMPLE]
        if len(sample) < SAMPLE:
            return None
        mask = self._mask(sample)
        first = packet[0] ^ (mask[0] & 0x0F)
        size = (first & 3) + 1
        number = int.from_bytes(packet[at : at + size]) ^ int.from_bytes(mask[1 : 1 + size])
        head = bytes((first,)) + packet[1:at] + number.to_bytes(size)
        try:
            frames = self._open((self._iv ^ number).to_bytes(12), packet[at + size :], head)
        except self._invalid:
            return None
        return Opened(number, frames)


def initial_keys(version: int, cid: bytes) -> tuple[Keys, Keys] | None:
    """The client's and the server's keys of a connection whose client first sent to `cid`; None for unknown versions
    and where `cryptography` is missing."""
    salt = SALTS.get(version)
    if salt is None or _library() is None:
        return None
    secret = digest(salt, cid, "sha256")
    return Keys(_expand(secret, b"client in", 32), version), Keys(_expand(secret, b"server in", 32), version)
