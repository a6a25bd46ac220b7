"""Frames for the kernel's tests: sound ones of every kind, and the same ones damaged; and both ways to decode them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from decode_frames import stacks

from agent.capture import Block, CaptureError, Interface
from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.decode.kinds import ETHERTYPE, LINKTYPE, UDP_DESTINATION, UDP_SOURCE
from protocol.columns import Columns

LINKTYPES = sorted(LINKTYPE)
_PROTOCOLS = (4, 6, 1, 17, 41, 47, 51, 58, 97, 132, 136, 137, 0, 43, 44, 60)
_WORDS = (*(int(number) for number in np.flatnonzero(ETHERTYPE)), 0xFF03)
_PORTS = tuple(int(port) for port in np.flatnonzero((UDP_DESTINATION > 0) | (UDP_SOURCE > 0)))


def seeds() -> list[bytes]:
    """A sound frame of every stack."""
    return list(stacks().values())


def mutant(frame: bytes, random: np.random.Generator) -> bytes:
    """`frame` with a few bytes changed, most to numbers that lead to another layer, and maybe cut."""
    data = bytearray(frame)
    for _ in range(random.integers(0, 5)):
        at = int(random.integers(0, len(data) - 1)) if len(data) > 1 else 0
        choice = random.integers(0, 4)
        if choice == 0:
            data[at : at + 2] = int(random.choice(_WORDS)).to_bytes(2, "big")
        elif choice == 1:
            data[at : at + 2] = int(random.choice(_PORTS)).to_bytes(2, "big")
        elif choice == 2:
            data[at : at + 1] = bytes([int(random.choice(_PROTOCOLS))])
        else:
            data[at : at + 1] = bytes([int(random.integers(0, 256))])
    return bytes(data[: random.integers(0, len(data) + 1)]) if random.integers(0, 3) == 0 else bytes(data)


def block_of_files(paths: Iterable[Path]) -> Iterable[tuple[Block, list[Interface]]]:
    """The blocks of captures, each with its source's interfaces; a damaged one as far as it is sound."""
    for path in paths:
        source = FileSource([path])
        try:
            source.open()
            while not source.done:
                block = source.next_block(1.0)
                if block is not None:
                    yield block, source.interfaces
        except CaptureError:
            pass
        finally:
            source.close()


def both(block: Block, interfaces: Sequence[Interface]) -> tuple[Decoder, Decoder]:
    """A decoder with the kernel and one without."""
    with_kernel, without = Decoder(list(interfaces)), Decoder(list(interfaces))
    assert with_kernel._compiled is not None
    without._compiled = None
    return with_kernel, without


def differences(block: Block, interfaces: Sequence[Interface]) -> list[str]:
    """What the two ways to decode a block do not agree on: columns and payloads, by name and first row."""
    answers = [decoder.with_payloads(block, 1) for decoder in both(block, interfaces)]
    (theirs, their_payloads), (ours, our_payloads) = answers
    assert list(theirs) == list(ours)
    found = [name for name in ours if not _same(theirs, ours, name)]
    if not np.array_equal(their_payloads.length, our_payloads.length):
        found.append("payload length")
    there = our_payloads.length > 0
    if not np.array_equal(their_payloads.start[there], our_payloads.start[there]):
        found.append("payload start")
    return found


def _same(left: Columns, right: Columns, name: str) -> bool:
    one, two = left[name], right[name]
    if isinstance(two, np.ndarray):
        return isinstance(one, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    for field in dataclasses.fields(two):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(b, np.ndarray) and not (a.dtype == b.dtype and np.array_equal(a, b)):
            return False
        if isinstance(b, tuple) and a != b:
            return False
    return True
