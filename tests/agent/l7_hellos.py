"""TLS hellos made by the tests, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence

SIGNATURES = (0x0403, 0x0804, 0x0401)
Extension = tuple[int, bytes]


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def sized(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size) + data


def sni(name: str) -> Extension:
    return 0, sized(b"\0" + sized(name.encode(), 2), 2)


def alpn(*protocols: bytes) -> Extension:
    return 16, sized(b"".join(sized(p, 1) for p in protocols), 2)


def versions(*values: int) -> Extension:
    return 43, sized(numbers(*values), 1)


def signatures(*values: int) -> Extension:
    return 13, sized(numbers(*(values or SIGNATURES)), 2)


def extensions(listed: Sequence[Extension]) -> bytes:
    return sized(b"".join(struct.pack(">H", kind) + sized(data, 2) for kind, data in listed), 2)


def message(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + sized(body, 3)


def client_body(
    listed: Sequence[Extension], ciphers: Sequence[int] = (0x1301, 0xC02F), legacy: int = 0x0303, cookie: bytes = b""
) -> bytes:
    return numbers(legacy) + bytes(32) + b"\0" + cookie + sized(numbers(*ciphers), 2) + b"\1\0" + extensions(listed)


def client_hello(listed: Sequence[Extension], ciphers: Sequence[int] = (0x1301, 0xC02F)) -> bytes:
    return message(1, client_body(listed, ciphers))


def server_hello(cipher: int, listed: Sequence[Extension] = ()) -> bytes:
    body = numbers(0x0303) + bytes(32) + b"\0" + numbers(cipher) + b"\0"
    return message(2, body + (extensions(listed) if listed else b""))


def record(kind: int, body: bytes, version: int = 0x0303) -> bytes:
    return bytes((kind,)) + numbers(version) + sized(body, 2)


def dtls_record(kind: int, body: bytes, epoch: int = 0, version: int = 0xFEFD) -> bytes:
    return bytes((kind,)) + numbers(version, epoch) + bytes(6) + sized(body, 2)


def dtls_message(kind: int, body: bytes, offset: int = 0, part: int | None = None) -> bytes:
    part = len(body) if part is None else part
    head = bytes((kind,)) + len(body).to_bytes(3) + bytes(2) + offset.to_bytes(3) + part.to_bytes(3)
    return head + body[offset : offset + part]
