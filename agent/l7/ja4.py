"""JA4, the fingerprint of a TLS client (FoxIO, technical_details/JA4.md; the TLS client part is under BSD 3-Clause).

`PROTOCOL VERSION SNI CIPHERS EXTENSIONS ALPN _ HASH-OF-CIPHERS _ HASH-OF-EXTENSIONS`: ciphers and extensions sorted, so
that clients which shuffle them keep their fingerprint; GREASE (RFC 8701) is ignored everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from struct import unpack

VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2",
            0xFEFF: "d1", 0xFEFD: "d2", 0xFEFC: "d3"}  # fmt: skip
GREASE = frozenset(value << 8 | value for value in range(0x0A, 0x100, 0x10))
NOTHING = "000000000000"
KEPT = 512  # longer lists than any client has are not worth remembering


def ja4(protocol: str, version: int, ciphers: bytes, extensions: list[int], alpn: bytes, algorithms: bytes) -> str:
    """The fingerprint of a hello.

    `protocol` is t, q or d (TLS, QUIC, DTLS); `version` the highest supported one; `ciphers` and `algorithms` (of
    signatures, extension 13) are lists of big-endian 16-bit numbers as on the wire, `alpn` the first protocol offered.
    """
    usual = len(ciphers) <= KEPT and len(algorithms) <= KEPT
    count, first = (_ciphers if usual else _ciphers.__wrapped__)(ciphers)
    real = [kind for kind in extensions if kind not in GREASE]
    name = "d" if 0 in real else "i"
    head = f"{protocol}{VERSIONS.get(version, '00')}{name}{count:02d}{min(len(real), 99):02d}{_ends(alpn)}"
    last = (_extensions if usual else _extensions.__wrapped__)(tuple(sorted(real)), algorithms)
    return f"{head}_{first}_{last}"


def newest(versions: list[int], legacy: int) -> int:
    """The highest version of a hello; DTLS numbers count downwards."""
    real = [version for version in versions if version not in GREASE]
    if not real:
        return legacy
    return min(real) if legacy >= 0xFE00 else max(real)


def _numbers(raw: bytes) -> list[int]:
    count = len(raw) // 2
    return [value for value in unpack(f">{count}H", raw[: count * 2]) if value not in GREASE]


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]


@lru_cache(1024)
def _ciphers(raw: bytes) -> tuple[int, str]:
    """How many (at most 99), and their hash."""
    real = sorted(_numbers(raw))
    return min(len(real), 99), _hash(",".join(f"{value:04x}" for value in real)) if real else NOTHING


@lru_cache(1024)
def _extensions(kinds: tuple[int, ...], algorithms: bytes) -> str:
    """The hash of the extensions without SNI and ALPN, and of the signature algorithms in their order."""
    if not kinds:
        return NOTHING
    listed = ",".join(f"{kind:04x}" for kind in kinds if kind not in (0, 16))
    signatures = ",".join(f"{value:04x}" for value in _numbers(algorithms))
    return _hash(f"{listed}_{signatures}" if signatures else listed)


def _ends(alpn: bytes) -> str:
    """First and last character; of the hexadecimal form where one of them is no ASCII letter or digit."""
    if not alpn:
        return "00"
    if alpn[:1].isalnum() and alpn[-1:].isalnum():
        return chr(alpn[0]) + chr(alpn[-1])
    return alpn.hex()[0] + alpn.hex()[-1]
