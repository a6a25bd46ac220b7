"""The format of a spool's file: a header, then records; read back whatever became of the bytes.

    header   magic, version, key, agent's name, checksum; written twice
    record   head, body, tail

The head says what the record is, how long its body is and the body's checksum, and has a checksum of its own; the tail
is the head once more. So one damaged place never hides which batch it hit: where the head is unreadable the tail leads
to the body, and where the body is damaged the head names the batch. Checksums are CRC-32 that begin with the file's
random key: bytes of a body, or of an older file in the same blocks, never look like a record.

A record is a batch or tombstone as it goes over the wire, beside the tombstone that would stand for it; or a mark:
these batches are about to be sent to that store, or are done.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import msgpack

from protocol.codec import decode, encode
from protocol.errors import LocalError, RemoteError
from protocol.messages import Tombstone

VERSION = 1
BATCH, SENT, DONE = 1, 2, 3
_TAIL = 0x80

_MAGIC = b"nodetap spool\n"
_HEADER = struct.Struct("<14sHIH")  # magic, version, key, length of the agent's name
_SYNC = b"\xc1nt\xc1"  # 0xc1 is in no msgpack
_HEAD = struct.Struct("<4sBIII")  # sync, kind, length of info, length of the body, checksum of the body
_SUM = struct.Struct("<I")

Run = tuple[int, int]
"""First and last batch number."""


class Foreign(Exception):
    """The file is whole, and not for us: of another version or another agent."""


@dataclass(frozen=True, slots=True)
class Record:
    """A batch or tombstone: what stands for it, its bytes, the store it may be in. `data` None: damaged or cut."""

    stub: Tombstone
    data: bytes | None
    store: str


@dataclass(frozen=True, slots=True)
class Mark:
    """These batches of an epoch: `SENT` to `store` (or soon to be), or `DONE`, no longer owed."""

    kind: int
    epoch: int
    runs: Sequence[Run]
    store: str = ""


@dataclass(slots=True)
class Scan:
    """What a file holds, in order. `unreadable`: places where records were and nothing says which."""

    found: list[Record | Mark] = field(default_factory=list)
    unreadable: int = 0
    cut: int = 0  # bytes at the end that are no whole record


def pack_header(agent: str, key: int) -> bytes:
    """The beginning of a file; `key` is random, 32 bits."""
    name = agent.encode()
    plain = _HEADER.pack(_MAGIC, VERSION, key, len(name)) + name
    return (plain + _SUM.pack(crc32(plain))) * 2


def pack_record(record: Record, key: int) -> list[bytes]:
    """A batch or tombstone as bytes, in parts to be written one after the other."""
    data = b"" if record.stub.reason or record.stub.kind == "report" else record.data
    if data is None:
        raise LocalError("a damaged record is not written")
    head, tail = _ends(BATCH, [record.store, encode(record.stub)], data, key)
    return [head, data, tail]


def pack_mark(mark: Mark, key: int) -> list[bytes]:
    """A mark as bytes, in parts to be written one after the other."""
    head, tail = _ends(mark.kind, [mark.store, mark.epoch, [list(run) for run in mark.runs]], b"", key)
    return [head, tail]


def _ends(kind: int, info: list[Any], body: bytes, key: int) -> tuple[bytes, bytes]:
    packed: bytes = msgpack.packb(info)
    body_sum = crc32(body, key)

    def end(kind: int) -> bytes:
        plain = _HEAD.pack(_SYNC, kind, len(packed), len(body), body_sum) + packed
        return plain + _SUM.pack(crc32(plain, key))

    return end(kind), end(kind | _TAIL)


def scan(data: bytes, agent: str) -> Scan:
    """Read a file. Raises Foreign; whatever is damaged is counted and never given as something it is not."""
    result = Scan()
    found = _header(data, agent)
    if found is None:
        result.unreadable, result.cut = int(bool(data.strip(b"\0"))), len(data)
        return result
    reader = _Reader(data, found[0], agent, result)
    at = found[1]
    while at < len(data):
        at = reader.record(at)
    return result


def _header(data: bytes, agent: str) -> tuple[int, int] | None:
    """(key, where the records begin), from the first copy of the header that is whole."""
    size = _HEADER.size + len(agent.encode()) + _SUM.size
    place = data.find(_MAGIC)
    while 0 <= place <= 2 * size:
        if place + _HEADER.size <= len(data):
            _, version, key, length = _HEADER.unpack_from(data, place)
            end = place + _HEADER.size + length
            plain, check = data[place:end], data[end : end + _SUM.size]
            if check == _SUM.pack(crc32(plain)):
                name = plain[_HEADER.size :].decode()
                if version != VERSION or name != agent:
                    raise Foreign(f"version {version} of the format" if name == agent else f"of the agent {name}")
                return key, 2 * size
        place = data.find(_MAGIC, place + 1)
    return None


@dataclass(frozen=True, slots=True)
class _End:
    kind: int
    tail: bool
    info: bytes
    body: int
    body_sum: int
    size: int


class _Reader:
    def __init__(self, data: bytes, key: int, agent: str, result: Scan) -> None:
        self._data, self._key, self._agent, self._result = data, key, agent, result

    def record(self, at: int) -> int:
        """Read what is at `at`; where the next record begins."""
        head = self._end(at)
        if head is None or head.tail:
            return self._resume(at)
        start = at + head.size
        self._take(head, start)
        if start + head.body > len(self._data):
            self._result.cut = len(self._data) - at
            return len(self._data)
        return min(start + head.body + head.size, len(self._data))

    def _resume(self, at: int) -> int:
        """No head is at `at`: go on at the next one, or take the record whose tail comes before it."""
        place = self._data.find(_SYNC, at)
        while place >= 0:
            end = self._end(place)
            if end is not None and not end.tail:
                self._result.unreadable += 1
                return place
            if end is not None and place - end.body >= at:
                self._result.unreadable += place - end.body - end.size > at  # another one was before it
                self._take(end, place - end.body)
                return place + end.size
            place = self._data.find(_SYNC, place + 1)
        if self._data[at:].strip(b"\0"):  # a file system may give zeros where it had no time to write
            self._result.unreadable += 1
        self._result.cut = len(self._data) - at
        return len(self._data)

    def _end(self, at: int) -> _End | None:
        """The head or tail at `at`; None where there is none."""
        if at + _HEAD.size > len(self._data):
            return None
        sync, kind, length, body, body_sum = _HEAD.unpack_from(self._data, at)
        size = _HEAD.size + length
        plain, check = self._data[at : at + size], self._data[at + size : at + size + _SUM.size]
        if sync != _SYNC or check != _SUM.pack(crc32(plain, self._key)):
            return None
        return _End(kind & ~_TAIL, bool(kind & _TAIL), plain[_HEAD.size :], body, body_sum, size + _SUM.size)

    def _take(self, end: _End, start: int) -> None:
        body: bytes | None = self._data[start : start + end.body]
        if body is None or len(body) < end.body or crc32(body, self._key) != end.body_sum:
            body = None
        found = _found(end.kind, end.info, body, self._agent)
        if found is None:
            self._result.unreadable += 1
        else:
            self._result.found.append(found)


def _found(kind: int, info: bytes, body: bytes | None, agent: str) -> Record | Mark | None:
    """The record of an end whose checksum was right; None where we cannot have written it."""
    try:
        values = msgpack.unpackb(info)
        if kind in (SENT, DONE):
            store, epoch, runs = values
            return Mark(kind, epoch, [(first, last) for first, last in runs], store)
        store, packed = values
        stub, _ = decode(packed, "agent")
    except (ValueError, TypeError, RemoteError):
        return None
    if kind != BATCH or not isinstance(stub, Tombstone) or stub.agent != agent:
        return None
    return Record(stub, packed if body == b"" else body, store)
