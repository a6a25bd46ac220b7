"""One hub's raw frames as they come over the wire: parts that a merge takes, and what the hub says with them. Pure.

An answer is a section of pcapng as `hub.pcap.merge` writes it. What is of its interfaces and of its end is kept, for
those of the file that it becomes a part of.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.cli.blocks import check_length, damaged, words_in
from protocol import ending, pcapng
from protocol.parts import Part, ordered

_HEAD = {pcapng.SECTION: 24, pcapng.INTERFACE: 16, pcapng.STATISTICS: 20}
"""Bytes of a block before its options."""
_NAME, _DESCRIPTION, _COMMENT = 2, 3, 1
_AGENT = "agent "


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of an answer, as its block says."""

    name: str
    linktype: int
    description: str
    comments: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same in each answer of a hub."""
        return "\n".join((self.name, self.description, *self.comments))

    def block(self, hub: str) -> bytes:
        """The block for a file of several hubs."""
        comments = [*self.comments, f"hub {hub}"]
        return pcapng.interface(self.name, self.linktype, description=self.description, comments=comments)


class Reader:
    """Takes the bytes of an answer in pieces of any size.

    `reached` is the newest time of all frames so far. Whoever takes `comments`, of the file and of its end, takes them
    away.
    """

    def __init__(self) -> None:
        self.interfaces: list[Interface] = []
        self.comments: list[str] = []
        self.reached = -1 << 63
        self._kept = b""

    @property
    def agents(self) -> list[str]:
        """Whose frames came."""
        said = {text for each in self.interfaces for text in each.comments if text.startswith(_AGENT)}
        return sorted(text.removeprefix(_AGENT) for text in said)

    def interface(self, key: str) -> Interface:
        """The one with this key. Raises StopIteration where there is none."""
        return next(each for each in self.interfaces if each.key == key)

    def feed(self, data: bytes) -> tuple[Part, list[dict[str, Any]]]:
        """The frames that are whole now, in order of time, and what was said. Raises HubLost where it is no capture."""
        data = self._kept + data
        starts = _starts(data)
        end = starts.pop()
        self._kept = data[end:]
        words = np.frombuffer(data[:end], dtype="<u4")
        at = np.array(starts, dtype=np.int64) // 4
        frames = words[at] == pcapng.PACKET
        said = [told for place in at[~frames].tolist() if (told := self._other(words, place)) is not None]
        part = self._part(words, at[frames], np.repeat(frames, words[at + 1] // 4))
        self.reached = max(self.reached, int(part.time[-1])) if len(part) else self.reached
        return part, said

    def _other(self, words: NDArray[np.uint32], at: int) -> dict[str, Any] | None:
        """Enter a block that is no frame; what the hub says in it of the answer, where it does."""
        kind, block = int(words[at]), words[at : at + int(words[at + 1]) // 4].tobytes()
        if kind == ending.TYPE:
            return words_in(block[8:-4])
        options = pcapng.options_of(block, _HEAD.get(kind, len(block)))
        comments = [value.decode("utf-8", "replace") for code, value in options if code == _COMMENT]
        if kind == pcapng.INTERFACE:
            texts = {code: value.decode("utf-8", "replace") for code, value in options if code in (_NAME, _DESCRIPTION)}
            (linktype,) = struct.unpack_from("<H", block, 8)
            interface = Interface(texts.get(_NAME, ""), linktype, texts.get(_DESCRIPTION, ""), tuple(comments))
            self.interfaces.append(interface)
        else:
            self.comments += comments
        return None

    def _part(self, words: NDArray[np.uint32], at: NDArray[np.int64], mine: NDArray[np.bool_]) -> Part:
        """The frames that begin at these words, all of whose words are `mine`."""
        length = words[at + 1].astype(np.int64)
        right = (
            (length >= pcapng.AROUND)
            & (words[at + 2] < len(self.interfaces))
            & (words[at + 5].astype(np.int64) + pcapng.AROUND <= length)
        )
        if not right.all():
            raise damaged()
        ticks = words[at + 3].astype(np.uint64) << np.uint64(32) | words[at + 4]
        return ordered(Part(ticks.view(np.int64), length, words[mine].view(np.uint8)))


def _starts(data: bytes) -> list[int]:
    """Where whole blocks begin, and behind them where the last one ends."""
    words = memoryview(data)[: len(data) // 4 * 4].cast("I")
    starts, place, end = [], 0, len(words) * 4
    while place + 12 <= end:
        length = words[(place >> 2) + 1]
        check_length(length)
        if place + length > end:
            break
        if words[(place + length >> 2) - 1] != length:
            raise damaged()
        starts.append(place)
        place += length
    return [*starts, place]
