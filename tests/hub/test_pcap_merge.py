"""Parts of many agents as one file: every frame once, in order, whatever the parts and their order of arrival."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.pcap.merge import Disorder, Gap, Merge
from hub.pcap.whom import columns_of, may_match
from protocol import ending, pcapng
from protocol.filter.grammar import parse
from protocol.messages import Fetched
from protocol.parts import Part, pack, unpack
from protocol.parts import part_of as blocks_of

T0 = 1_700_000_000_000_000_000
NEVER = (1 << 63) - 1


def part_of(
    frames: list[tuple[int, bytes, int]], faces: list[list], reached: int, last: bool, gaps: list = ()
) -> tuple[Fetched, Part]:  # type: ignore[assignment]
    """A part with these frames: time, bytes, interface."""
    data = np.frombuffer(b"".join(frame for _, frame, _ in frames), dtype=np.uint8)
    length = np.array([len(frame) for _, frame, _ in frames], dtype=np.int64)
    made = pcapng.Frames(
        data, np.cumsum(length) - length, length.astype(np.uint32), length.astype(np.uint32),
        np.array([time for time, _, _ in frames], dtype=np.int64),
        np.array([face for _, _, face in frames], dtype=np.uint16),
    )  # fmt: skip
    body = pack(blocks_of(made))
    fetched = Fetched(1, 1, len(frames), body, faces, reached, int(last), list(gaps))
    return fetched, unpack(fetched)


def read(path: Path, data: bytes) -> list[tuple[int, str, bytes]]:
    """Time, interface description and bytes of each frame of a file, as the agent's reader has them."""
    from agent.capture.file import FileSource

    path.write_bytes(data)
    source, found = FileSource([path]), []
    source.open()
    while (block := source.next_block(1)) is not None:
        for i in range(len(block)):
            at, size = int(block.offset[i]), int(block.cap_len[i])
            found.append(
                (int(block.time[i]), source.interfaces[block.iface[i]].name, block.data[at : at + size].tobytes())
            )
    assert source.truncated == ""
    source.close()
    return found


AGENTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.lists(st.tuples(st.integers(T0, T0 + 30), st.binary(max_size=40), st.integers(0, 1)), max_size=12),
    min_size=1,
)


@given(AGENTS, st.integers(0, 1 << 30))
def test_every_frame_once_in_order_whatever_the_parts(
    tmp_path_factory: pytest.TempPathFactory, agents: dict, seed: int
) -> None:
    random_ = random.Random(seed)
    merge, out = Merge(agents, "test"), []
    left = {name: sorted(frames, key=lambda frame: frame[0]) for name, frames in agents.items()}
    while hungry := merge.hungry(1):
        name = random_.choice(hungry)
        count = random_.randint(0, 4)
        now, left[name] = left[name][:count], left[name][count:]
        reached = left[name][0][0] if left[name] else NEVER
        merge.add(name, *part_of(now, [[f"{name}0", 1], [f"{name}1", 1]], reached, not left[name]))
        if random_.random() < 0.5:
            out.append(merge.take())
    out += [merge.take(), merge.end()]
    found = read(tmp_path_factory.mktemp("merge") / "x.pcapng", b"".join(out))
    assert [time for time, _, _ in found] == sorted(time for time, _, _ in found)
    expected = [
        (time, f"{name}{face}", frame)
        for name, frames in sorted(agents.items())
        for time, frame, face in sorted(frames, key=lambda frame: frame[0])
    ]
    assert found == sorted(expected, key=lambda frame: frame[0])  # of one time: by agent, then as they came
    assert merge.frames == len(expected)


def test_nothing_goes_out_before_what_may_come() -> None:
    merge = Merge(["a", "b"], "test")
    merge.add("a", *part_of([(T0 + 1, b"a1", 0), (T0 + 5, b"a5", 0)], [["e", 1]], T0 + 9, False))
    assert merge.take() == b""
    merge.add("b", *part_of([(T0 + 3, b"b3", 0)], [["e", 1]], T0 + 5, False))
    first = merge.take()
    assert b"a1" in first
    assert b"b3" in first
    assert b"a5" not in first  # b may still have one of the same nanosecond
    assert merge.hungry(0) == ["b"]
    merge.give_up("b", "b is gone")
    assert b"a5" in merge.take()
    merge.add("a", *part_of([], [], NEVER, True))
    assert merge.done


@pytest.mark.parametrize(("caps", "frames", "cut"), [
    ({"most_frames": 3}, 3, "frames"), ({"most_bytes": 100}, 2, "bytes"), ({"most_bytes": 10}, 0, "bytes"),
    ({"most_frames": 10, "most_bytes": 1000}, 10, ""),
])  # fmt: skip
def test_caps_cut(tmp_path: Path, caps: dict[str, int], frames: int, cut: str) -> None:
    merge = Merge(["a"], "test", **caps)
    merge.add("a", *part_of([(T0 + i, b"1234", 0) for i in range(10)], [["e", 1]], NEVER, True))
    found = read(tmp_path / "x.pcapng", merge.take() + merge.end())
    assert (len(found), merge.frames, merge.cut) == (frames, frames, cut)
    assert merge.done
    assert merge.bytes == 36 * frames


def test_what_is_missing_is_marked_where_it_is_missed(tmp_path: Path) -> None:
    merge = Merge(["a", "b"], "test")
    merge.remark("c", "agent c is missing")
    gaps = [
        [T0 + 2, T0 + 4, 17, "disk_slow"],
        [T0 + 1, T0 + 4, -1, "agent_restarted"],
        [T0 + 8, T0 + 9, 2, "disk_failed"],
    ]
    frames = [(T0 + 1, bytes(20), 0), (T0 + 4, bytes(21), 0), (T0 + 5, bytes(22), 0)]
    merge.add("a", *part_of(frames, [["eth0", 1]], NEVER, True, gaps))
    merge.add("b", *part_of([(T0 + 3, bytes(23), 0)], [["eth0", 1]], NEVER, False))
    first = merge.take()
    merge.give_up("b", "agent b is missing: too slow")
    path = tmp_path / "x.pcapng"
    path.write_bytes(first + merge.take() + merge.end())
    command = ["tshark", "-r", path, "-T", "fields", "-e", "frame.len", "-e", "frame.comment"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t")[0] for line in shown] == ["20", "23", "21", "22"]
    assert [bool(line.split("\t")[1]) for line in shown] == [False, False, True, False]
    assert "17 frames of a are missing" in shown[2]
    assert "the disk was too slow" in shown[2]
    assert "frames of a are missing from 2023-11-14T22:13:20.000000001Z" in shown[2]
    about = subprocess.run(["capinfos", path], capture_output=True, text=True, check=True).stdout
    assert "agent c is missing" in about
    assert merge.gaps[0] == Gap("a", T0 + 2, T0 + 4, 17, "disk_slow")
    text = path.read_bytes()
    assert b"2 frames of a are missing" in text  # at the end: no frame came after it
    assert b"agent b is missing: too slow" in text


def test_an_agent_without_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.pcap.merge.HELD", 1000)
    merge = Merge(["a", "b"], "test")
    for _ in range(13):
        merge.add("a", *part_of([(T0 + 9, bytes(40), 0)], [["e", 1]], T0, False))
    with pytest.raises(Disorder):
        merge.add("a", *part_of([(T0 + 9, bytes(40), 0)], [["e", 1]], T0, False))


def test_no_agents_no_frames_and_still_a_file(tmp_path: Path) -> None:
    merge = Merge([], "test")
    merge.remark("c", "agent c is missing")
    assert merge.done
    data = merge.take() + merge.end() + ending.pack({"nodetap.completeness": {}})
    path = tmp_path / "x.pcapng"
    path.write_bytes(data)
    done = subprocess.run(["capinfos", path], capture_output=True, text=True, check=True)
    assert "agent c is missing" in done.stdout


def test_readers_skip_the_ending(tmp_path: Path) -> None:
    merge = Merge(["a"], "test")
    merge.add("a", *part_of([(T0, bytes(60), 0)], [["e", 1]], NEVER, True))
    path = tmp_path / "x.pcapng"
    path.write_bytes(merge.take() + merge.end() + ending.pack({"nodetap.completeness": {"complete": True}}))
    done = subprocess.run(["tshark", "-r", path], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert [line for line in done.stderr.splitlines() if "Running as" not in line and line.strip()] == []


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=30)), st.binary(max_size=30))
def test_the_ending_is_found_behind_anything(value: dict, before: bytes) -> None:
    block = ending.pack(value)
    assert ending.find(before + block) == (value, len(before))
    assert len(block) % 4 == 0


@given(st.binary(max_size=60))
def test_no_ending_is_no_ending(data: bytes) -> None:
    assert ending.find(data) is None or data[-4:] != bytes(4)


@pytest.mark.parametrize(("text", "one", "other"), [
    ("", True, True),
    ("tcp", True, True),
    ('nodetap.agent == "one"', True, False),
    ('nodetap.agent != "one"', False, True),
    ('not nodetap.agent == "one"', False, True),
    ('nodetap.agent == "one" and tcp', True, False),
    ('nodetap.agent == "one" or tcp', True, True),
    ('nodetap.agent contains "n" and not (tcp and nodetap.agent == "one")', True, False),
    ('nodetap.agent in {"one", "two"}', True, False),
    ('nodetap.agent matches "^o"', True, True),
    ('nodetap.agent == "one" and nodetap.agent == "other"', False, False),
    ('(nodetap.agent == "one") xor (nodetap.agent == "other")', True, True),
    ('(nodetap.agent == "one") xor tcp', True, True),
])  # fmt: skip
def test_only_agents_that_a_filter_can_mean_are_asked(text: str, one: bool, other: bool) -> None:
    node = parse(text, "packets")
    assert (may_match(node, "one"), may_match(node, "other")) == (one, other)


def test_the_columns_of_a_filter() -> None:
    assert columns_of(None) == set()
    assert columns_of(parse("frame.number in {1..3} or ip.addr == 10.0.0.1", "packets")) == {
        "frame_number",
        "src",
        "dst",
    }
