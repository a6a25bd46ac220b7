"""The block behind which nothing comes in a pcapng answer of the hub: how complete it is, or why it broke off, as JSON.

Its type is one of those that pcapng leaves to everybody (the highest bit is set): readers skip it. Whoever gets the
answer finds it by the last four bytes: every block ends with its length.
"""

from __future__ import annotations

import json
import struct
from typing import Any

TYPE = 0x80006E74
MOST = 4 << 20
"""Bytes that it has at most."""


def pack(value: dict[str, Any]) -> bytes:
    """The block."""
    body = json.dumps(value, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", TYPE) + length + body + length


def find(tail: bytes) -> tuple[dict[str, Any], int] | None:
    """What the block at the end of `tail` says, and where it begins there; None where there is none."""
    if len(tail) < 12:
        return None
    (length,) = struct.unpack_from("<I", tail, len(tail) - 4)
    begin = len(tail) - length
    if length < 12 or begin < 0 or struct.unpack_from("<II", tail, begin) != (TYPE, length):
        return None
    try:
        value = json.loads(tail[begin + 8 : -4])
    except ValueError:
        return None
    return (value, begin) if isinstance(value, dict) else None
