"""Questions to the recorder: every frame once and in order of time, in parts of any size, with what is missing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture import Block, Interface
from agent.recorder import search as module
from agent.recorder.recorder import BEHIND, GONE, RESTARTED
from agent.recorder.search import DAMAGED, SKIPPED, Search
from agent.recorder.serving import IDLE, MOST_OPEN, Serving
from protocol.errors import WrongMessage
from protocol.messages import Fetch, Fetched
from protocol.parts import Part, unpack
from tests.agent.test_recorder import BOUND, FACES, T0, Node, block_of


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.die()


def numbers_of(part: Part) -> list[int]:
    starts = part.start + 28
    return [int.from_bytes(part.blocks[at : at + 4].tobytes(), "big") for at in starts.tolist()]


def parts_of(node: Node, first: Fetch, size: int = 1 << 20, frames: int = 1 << 40) -> list[tuple[Fetched, Part]]:
    """All parts of an answer, checked."""
    found, search, number = [], Search(node.recorder, first, "n1"), 1
    while True:
        fetched = search.part(replace(first, part=number, size=size, frames=frames))
        found.append((fetched, unpack(fetched)))
        assert fetched.part == number
        number += 1
        if fetched.last:
            return found


def all_of(node: Node, first: Fetch, **more: int) -> list[int]:
    return [number for _, part in parts_of(node, first, **more) for number in numbers_of(part)]


def gaps_of(node: Node, first: Fetch) -> list[list]:
    return [gap for fetched, _ in parts_of(node, first) for gap in fetched.gaps]


def test_all_frames_come_once_whatever_the_parts(node: Node) -> None:
    for number in range(0, 3000, 100):
        node.put(block_of(number, 100, 200, face=number // 100 % 2))
    assert all_of(node, Fetch(1, 1)) == list(range(3000))
    assert all_of(node, Fetch(1, 1), size=1000) == list(range(3000))
    assert all_of(node, Fetch(1, 1), frames=7) == list(range(3000))
    for fetched, part in parts_of(node, Fetch(1, 1), size=5000):
        assert len(fetched.body) <= 5000
        assert fetched.kept == T0
        names = {tuple(face) for face in fetched.interfaces}
        assert names <= {(face.name, face.linktype) for face in FACES}
        assert not len(part) or int(part.time[-1]) <= fetched.reached


def test_one_frame_comes_however_small_the_part(node: Node) -> None:
    node.put(block_of(0, 3, 5000))
    assert all_of(node, Fetch(1, 1), size=1) == [0, 1, 2]


def test_times_are_a_half_open_window(node: Node) -> None:
    for number in range(0, 1000, 10):
        node.put(block_of(number, 10, 500))
    assert all_of(node, Fetch(1, 1, since=T0 + 5, until=T0 + 995)) == list(range(5, 995))
    assert all_of(node, Fetch(1, 1, since=T0 + 2000)) == []
    assert all_of(node, Fetch(1, 1, until=T0)) == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 4000))
def test_order_of_time_whatever_the_order_of_capture(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int
) -> None:
    """Also across files: nothing comes that is earlier than what `reached` said."""
    random_ = random.Random(seed)
    node = Node(tmp_path_factory.mktemp("recorder"))
    times = []
    base = T0
    for number in range(0, 400, 20):
        base += random_.choice([1000, 1000, 1000, -200_000])  # the clock is set back now and then
        block = block_of(number, 20, 1500)
        moved = np.array([base + random_.randint(-500, 500) for _ in range(20)], dtype=np.int64)
        times += moved.tolist()
        node.put(replace(block, time=moved))
    reached, found = -(1 << 63), []
    for fetched, part in parts_of(node, Fetch(1, 1), size=size):
        assert not len(part) or part.time[0] >= reached
        assert fetched.reached >= reached
        reached = fetched.reached
        found += part.time.tolist()
    assert sorted(found) == sorted(times)
    node.die()


def test_a_filter_chooses(node: Node) -> None:
    frames = [tcp(80, 1234), tcp(443, 1234), tcp(1234, 80), bytes(60)]
    node.put(blocks(frames))
    assert [bytes(f) for f in raw_of(node, "tcp.port == 80")] == [frames[0], frames[2]]
    assert raw_of(node, "tcp") == frames[:3]
    assert raw_of(node, 'nodetap.agent == "n1" and tcp.port == 443') == [frames[1]]
    assert raw_of(node, 'nodetap.agent == "n2"') == []
    assert raw_of(node, 'nodetap.iface == "eth0"') == frames
    assert raw_of(node, "nodetap.epoch == 00000000000000aa and !tcp") == [frames[3]]


def test_a_filter_reads_application_protocols(node: Node) -> None:
    query = bytes.fromhex("abcd01000001000000000000") + b"\x03www\x07example\x03org\x00\x00\x01\x00\x01"
    other = query.replace(b"example", b"another")
    frames = [udp(53, query), udp(53, other), tcp(80, 1)]
    node.put(blocks(frames))
    assert raw_of(node, 'dns.qry.name == "www.example.org"') == frames[:1]
    assert raw_of(node, "dns") == frames[:2]
    assert raw_of(node, "nodetap.l7 == DNS and frame.len > 1") == frames[:2]


def test_no_pattern_holds_a_node_up(node: Node) -> None:
    name = (b"\x3f" + b"a" * 63) * 3
    frames = [udp(53, bytes.fromhex("abcd01000001000000000000") + name + b"\x00\x00\x01\x00\x01"), tcp(80, 1)]
    node.put(blocks(frames))
    assert raw_of(node, r'dns.qry.name matches r"^(\w+\.?)+!$"') == []
    assert raw_of(node, r'not dns.qry.name matches r"^(\w+\.?)+!$"') == frames
    assert raw_of(node, r'dns.qry.name matches r"^(\w+\.?)+$"') == frames[:1]


def test_a_wrong_filter_is_refused(node: Node) -> None:
    pytest.importorskip("protocol.filter.predicate")
    with pytest.raises(ValueError, match="column"):
        Search(node.recorder, Fetch(1, 1, filter="tcp.prt == 1"), "n1")


def test_what_is_written_meanwhile_is_not_in_the_answer(node: Node) -> None:
    node.put(block_of(0, 10, 1000))
    search = Search(node.recorder, Fetch(1, 1), "n1")
    first = search.part(Fetch(1, 1, size=3000))
    node.put(block_of(10, 100, 1000))
    found = numbers_of(unpack(first))
    for number in range(2, 100):
        fetched = search.part(Fetch(1, number, size=3000))
        found += numbers_of(unpack(fetched))
        if fetched.last:
            break
    assert found == list(range(10))


def test_files_that_made_room_meanwhile_are_a_gap(node: Node) -> None:
    for number in range(0, 200, 10):
        node.put(block_of(number, 10, 4000))
    oldest = node.recorder.segments[0].extent
    search = Search(node.recorder, Fetch(1, 1), "n1")
    for number in range(200, 400, 10):
        node.put(block_of(number, 10, 4000))
    fetched, part_number, gaps, found = None, 1, [], []
    while fetched is None or not fetched.last:
        fetched = search.part(Fetch(1, part_number))
        gaps, found, part_number = gaps + fetched.gaps, found + numbers_of(unpack(fetched)), part_number + 1
    assert gaps[0] == [oldest.first, oldest.last, oldest.frames, GONE]
    assert sorted([*found, *(n - T0 for a, b, _, _ in gaps for n in range(a, b + 1))]) == list(range(200))
    assert fetched.overwritten > T0


def test_what_was_not_recorded_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.recorder.recorder.WAITING", 5000)
    node.put(block_of(0, 5))
    node.recorder.put(block_of(5, 10))
    node.recorder.put(block_of(15, 10))
    assert gaps_of(node, Fetch(1, 1)) == [[T0 + 15, T0 + 24, 10, BEHIND]]  # nothing came after it yet
    node.step()
    node.put(block_of(40, 1))
    assert gaps_of(node, Fetch(1, 1)) == [[T0 + 15, T0 + 40, 10, BEHIND]]
    assert gaps_of(node, Fetch(1, 1, until=T0 + 15)) == []
    assert gaps_of(node, Fetch(1, 1, since=T0 + 41)) == []


def test_between_two_runs_nobody_recorded(tmp_path: Path) -> None:
    one = Node(tmp_path)
    one.put(block_of(0, 5))
    one.step(ending=True)
    one.die()
    other = Node(tmp_path, run="00000000000000bb")
    other.put(block_of(100, 5))
    assert gaps_of(other, Fetch(1, 1)) == [[T0 + 4, T0 + 100, -1, RESTARTED]]
    assert gaps_of(other, Fetch(1, 1, since=T0 + 101)) == []
    other.die()


def test_damage_is_a_gap(node: Node) -> None:
    node.put(block_of(0, 10, 100))
    (path,) = node.files()
    data = bytearray(path.read_bytes())
    place = data.index((7).to_bytes(4, "big") + random.Random(7).randbytes(96)) - 24
    data[place] ^= 0xFF  # a block's length
    path.write_bytes(data)
    assert all_of(node, Fetch(1, 1)) == list(range(7))
    assert gaps_of(node, Fetch(1, 1)) == [[T0, T0 + 9, 3, DAMAGED]]


def test_frames_that_there_is_no_time_to_decode_are_a_gap(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.recorder.match.SLOW_BUDGET", 0.0)
    FACES.append(Interface("wlan0", 127))  # radiotap
    try:
        node.put(block_of(0, 10, 100, face=len(FACES) - 1))
    finally:
        FACES.pop()
    assert gaps_of(node, Fetch(1, 1)) == []
    assert gaps_of(node, Fetch(1, 1, filter="tcp")) == [[T0, T0 + 9, 10, SKIPPED]]


def test_parts_without_frames_show_that_we_are_at_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    for number in range(0, 1000, 10):
        node.put(block_of(number, 10, 500))
    parts = parts_of(node, Fetch(1, 1, filter="tcp.port == 1"))
    assert len(parts) == len(node.recorder.segments)
    assert {fetched.frames for fetched, _ in parts} == {0}


# -- serving -------------------------------------------------------------------------------------------------------


def test_parts_are_served_in_turn(node: Node) -> None:
    node.put(block_of(0, 100, 500))

    async def ask() -> list[int]:
        serving, found = Serving(node.recorder, "n1"), []
        for number in range(1, 1000):
            fetched = await serving.answer("c1", Fetch(7, number, size=2000))
            found += numbers_of(unpack(fetched))
            if fetched.last:
                return found
        raise AssertionError("no end")

    assert asyncio.run(ask()) == list(range(100))


def test_questions_out_of_turn_are_refused(node: Node) -> None:
    node.put(block_of(0, 100, 500))

    async def ask() -> None:
        serving = Serving(node.recorder, "n1")

        async def refused(fetch: Fetch, connection: str = "c1") -> str:
            return (await serving.answer(connection, fetch)).refused

        assert await refused(Fetch(1, 2)) == "out_of_turn"
        assert await refused(Fetch(1, 1, size=500)) == ""
        assert await refused(Fetch(1, 1, size=500)) == "out_of_turn"
        assert await refused(Fetch(1, 2, size=500)) == ""
        both = await asyncio.gather(refused(Fetch(1, 3, size=500)), refused(Fetch(1, 4, size=500)))
        assert both == ["", "out_of_turn"]  # one part at a time
        for number in range(3, 3 + MOST_OPEN - 1):
            assert await refused(Fetch(number, 1, size=500)) == ""
        assert await refused(Fetch(99, 1, size=500)) == "busy"
        assert (await serving.answer("c1", Fetch(1, 0))).last == 1  # no longer wanted
        assert await refused(Fetch(99, 1, size=500)) == ""
        assert await refused(Fetch(1, 1, size=500), "c2") == ""  # a new connection: the old one's are over

    asyncio.run(ask())


def test_a_recorder_that_still_looks_at_its_files_is_busy(tmp_path: Path) -> None:
    node = Node(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    broken = Node(tmp_path / "file")
    broken.put(block_of(0, 1))

    async def ask(each: Node) -> str:
        return (await Serving(each.recorder, "n1").answer("c1", Fetch(1, 1))).refused

    assert asyncio.run(ask(node)) == "busy"
    assert asyncio.run(ask(broken)) == "failed"
    node.step()
    assert asyncio.run(ask(node)) == ""
    node.die()


def test_a_question_that_nobody_goes_on_with_ends(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.put(block_of(0, 100, 500))
    now = [0.0]
    monkeypatch.setattr("agent.recorder.serving.monotonic", lambda: now[0])

    async def ask() -> list[str]:
        serving = Serving(node.recorder, "n1")
        for number in range(MOST_OPEN):
            await serving.answer("c1", Fetch(number, 1, size=500))
        said = [(await serving.answer("c1", Fetch(50, 1, size=500))).refused]
        now[0] = IDLE + 1
        return [*said, (await serving.answer("c1", Fetch(50, 1, size=500))).refused]

    assert asyncio.run(ask()) == ["busy", ""]


# -- what a hub is told by agents that lie -------------------------------------------------------------------------


@given(st.data())
def test_no_damage_to_a_part_passes_as_another_part(data: st.DataObject) -> None:
    fetched = SAMPLE
    place = data.draw(st.integers(0, len(fetched.body) - 1))
    damaged = bytearray(fetched.body)
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        part = unpack(replace(fetched, body=bytes(damaged)))
    except WrongMessage:
        return
    assert part.length.tolist() == unpack(fetched).length.tolist()
    assert (np.diff(part.time) >= 0).all()


@given(st.binary(max_size=200), st.integers(0, 1 << 62))
def test_any_body_is_taken_or_refused(body: bytes, frames: int) -> None:
    with pytest.raises(WrongMessage) if frames else _fine():
        unpack(Fetched(1, 1, frames=frames, body=body if frames else b"", interfaces=[["a", 1]]))


class _fine:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def _sample() -> Fetched:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder), BOUND)
        node.put(block_of(0, 5, 61))
        ((fetched, _),) = parts_of(node, Fetch(1, 1))
        node.die()
    return fetched


SAMPLE = _sample()


# -- frames --------------------------------------------------------------------------------------------------------


def blocks(frames: list[bytes]) -> Block:
    lengths = np.array([len(frame) for frame in frames])
    return Block(
        np.frombuffer(b"".join(frames), dtype=np.uint8), (np.cumsum(lengths) - lengths).astype(np.int64),
        lengths.astype(np.uint32), lengths.astype(np.uint32), T0 + np.arange(len(frames), dtype=np.int64),
        np.zeros(len(frames), dtype=np.uint16),
    )  # fmt: skip


def ip(protocol: int, payload: bytes) -> bytes:
    head = bytes([0x45, 0]) + (20 + len(payload)).to_bytes(2, "big") + bytes(4) + bytes([64, protocol, 0, 0])
    return bytes(12) + b"\x08\x00" + head + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + payload


def tcp(source: int, target: int) -> bytes:
    return ip(6, source.to_bytes(2, "big") + target.to_bytes(2, "big") + bytes(8) + b"\x50\x10" + bytes(6))


def udp(target: int, payload: bytes) -> bytes:
    ports = (40000).to_bytes(2, "big") + target.to_bytes(2, "big")
    return ip(17, ports + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload)


def raw_of(node: Node, text: str) -> list[bytes]:
    """The frames that a filter chooses."""
    pytest.importorskip("protocol.filter.predicate")
    found = []
    for _, part in parts_of(node, Fetch(1, 1, filter=text)):
        words = part.blocks.view("<u4")
        for start in part.start.tolist():
            length = int(words[start // 4 + 5])
            found.append(part.blocks[start + 28 : start + 28 + length].tobytes())
    return found
