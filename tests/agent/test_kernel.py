"""The compiled kernel gives what numpy gives, in every cell; and it is never used where it does not fit."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decode_frames import block_of
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mutants import LINKTYPES, block_of_files, differences, mutant, seeds

from agent import kernel
from agent.capture import CaptureError, Interface, chain, pcap
from agent.capture.chain import Law, find_records
from agent.capture.file import FileSource
from agent.capture.pcap import MAGICS
from agent.decode import compiled
from agent.decode.kinds import Kind
from agent.decode.walk import MAX_LAYERS, Walk
from protocol.built import VARIABLE, complaints
from tools.fidelity import captures

pytestmark = pytest.mark.skipif(kernel.load() is None, reason="the kernel is not built or not wanted")
MUTANTS = 60_000


def test_every_file_of_the_corpus(corpus: Path):
    blocks = 0
    for block, interfaces in block_of_files(captures(corpus)):
        assert differences(block, interfaces) == []
        blocks += 1
    assert blocks > 0


@pytest.mark.parametrize("linktype", LINKTYPES)
def test_mutated_frames(linktype: int):
    random, sound = np.random.default_rng(linktype), seeds()
    for _ in range(MUTANTS // len(LINKTYPES) // 1000):
        # Ethernet's header is cut off where the link type has another or none, so that the rest is still reached
        cut = 0 if linktype == 1 else int(random.choice((0, 10, 12, 14)))
        frames = [mutant(sound[random.integers(len(sound))][cut:], random) for _ in range(1000)]
        wire = [len(frame) + int(random.choice((0, 0, 4, 1000))) for frame in frames]
        assert differences(block_of(frames, wire), [Interface("test0", linktype)]) == []


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=120), max_size=20), st.sampled_from(LINKTYPES))
def test_noise(frames: list[bytes], linktype: int):
    assert differences(block_of(frames), [Interface("test0", linktype)]) == []


def test_more_layers_than_are_walked_and_than_the_lists_hold_at_once():
    tags, labels = bytes(12) + b"\x81\x00" + b"\0\1\x81\x00" * 60, bytes(12) + b"\x88\x47" + b"\0\1\0\0" * 60
    assert differences(block_of([tags, labels] * 50 + [tags[:50]]), [Interface("test0", 1)]) == []


def test_a_tag_that_was_stripped_is_the_outermost():
    tagged = bytes(12) + b"\x81\x00\0\5\x08\x00" + bytes(20)
    assert differences(block_of([tagged, tagged], vlan=[3, -1]), [Interface("test0", 1)]) == []


def test_a_layer_that_the_kernel_does_not_know_is_left_where_it_is():
    walk = Walk(block_of([bytes(60)] * 2))
    walk_compiled = compiled.load()
    assert walk_compiled is not None
    walk_compiled.run(walk, np.array([200, Kind.ETHERNET], dtype=np.uint8))
    assert {kind: np.concatenate(rows).tolist() for kind, rows in walk.take().items()} == {200: [0]}
    assert walk.off.tolist()[0] == 0


def test_the_tables_are_those_of_the_sources():
    library = kernel.load()
    assert library is not None
    words = library.nodetap_tables().decode().split()
    assert f"max_layers={MAX_LAYERS}" in words
    assert set(words) <= compiled.ours()
    assert {f"kind.{kind.name}={kind.value}" for kind in Kind} <= set(words)


def test_a_table_that_is_not_ours_turns_the_kernel_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "MAX_LAYERS", 7)
    assert compiled.load() is None
    assert "max_layers=48" in complaints.pop()


PCAP, PCAPNG = Law("<u4", 8, 16, 16, 1), Law(">u4", 4, 0, 12, 4)


@pytest.mark.parametrize("law", [PCAP, PCAPNG])
@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(0, 100) | st.just(0xFFFFFFFF), max_size=40),
    place=st.integers(0, 50),
    room=st.integers(1, 50),
)
def test_chains_are_those_that_python_walks(law: Law, lengths: list[int], place: int, room: int):
    order = law.dtype[0]
    raw = b"".join(bytes(law.length_at) + struct.pack(order + "I", n) + bytes(min(n, 200)) for n in lengths)
    data, end = np.frombuffer(raw, dtype=np.uint8), len(raw) - law.header + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "ROOM", room)
        found = find_records(raw, data, law, place, end)
        patch.setenv(VARIABLE, "off")
        assert found.tolist() == find_records(raw, data, law, place, end).tolist()


@pytest.mark.parametrize("magic", sorted(MAGICS))
@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 90), max_size=30),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=3),
    missing=st.integers(0, 40),
    room=st.integers(1, 40),
)
def test_pcap_files_are_those_that_numpy_reads(magic: bytes, lengths: list[int], changes: Any, missing: int, room: int):
    order, _, header = MAGICS[magic]
    body = b"".join(struct.pack(order + "IIII", 2**31 + n, n, n, n + 7) + bytes(header - 16 + n) for n in lengths)
    raw = bytearray(magic + struct.pack(order + "HHiIII", 2, 4, 0, 0, 262144, 1) + body)
    for at, value in changes:
        raw[24 + at : 25 + at] = bytes([value])[: max(0, len(raw) - 24 - at)]
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        file.write(raw[: max(24, len(raw) - missing)])
        file.flush()
        patch.setattr(pcap, "ROOM", room)
        found = _read(file.name)
        patch.setenv(VARIABLE, "off")
        assert found == _read(file.name)


def _read(name: str) -> list[Any]:
    """What a file holds, frame by frame, and how it ends."""
    source, found = FileSource([name]), []
    try:
        source.open()
        while not source.done:
            if (block := source.next_block(1.0)) is not None:
                arrays = (block.offset, block.cap_len, block.wire_len, block.time, block.iface)
                found += zip(*(array.tolist() for array in arrays), strict=True)
    except CaptureError as error:
        return [*found, str(error)]
    return [*found, source.truncated]
