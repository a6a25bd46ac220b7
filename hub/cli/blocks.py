"""A live capture as it comes over the wire: whole blocks for the file, and what the hub says in between. Pure."""

from __future__ import annotations

import json
import struct
from typing import Any

from hub.cli.errors import HubLost
from protocol import ending
from protocol.pcapng import PACKET

LARGEST = 16 << 20
"""Bytes of a block; frames have at most 256 KiB."""


class Blocks:
    """Takes the bytes of an answer in pieces of any size. `frames` counts those that were given out."""

    def __init__(self) -> None:
        self.frames = 0
        self._kept = b""

    def feed(self, data: bytes) -> tuple[bytes, list[dict[str, Any]]]:
        """The blocks that are whole now, and what was said. Raises HubLost where it is no capture."""
        data = self._kept + data if self._kept else data
        kept: list[bytes] = []
        said: list[dict[str, Any]] = []
        begin = place = 0
        while place + 12 <= len(data):
            kind, length = struct.unpack_from("<II", data, place)
            check_length(length)
            if place + length > len(data):
                break
            if kind == ending.TYPE:
                kept.append(data[begin:place])
                said.append(words_in(data[place + 8 : place + length - 4]))
                begin = place + length
            self.frames += kind == PACKET
            place += length
        kept.append(data[begin:place])
        self._kept = data[place:]
        return b"".join(kept), said


def check_length(length: int) -> None:
    """Raise HubLost where no block that a hub sends is so long."""
    if length < 12 or length % 4 or length > LARGEST:
        raise HubLost("the hub's answer is no capture; does --hub-url lead to something else?")


def damaged() -> HubLost:
    """An answer that no hub makes."""
    return HubLost("the hub's answer is damaged; ask again")


def words_in(body: bytes) -> dict[str, Any]:
    """What the hub says in a block of its own. Raises HubLost."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise damaged()
    return value
