from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import captures as make
import pytest
from captures import Frame, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.capture import CaptureError
from agent.capture.file import FileSource

PLAIN = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
TIME = 1_700_000_000_123_456_000
SOME = [Frame(TIME + 1000 * i, 60 + i, bytes([i]) * (60 + i)) for i in range(5)]

frames_strategy = st.lists(
    st.builds(
        lambda ticks, data, cut: Frame(ticks * 1000, len(data) + cut, data),
        st.integers(0, (1 << 32) * 1_000_000 - 1),
        st.binary(max_size=200),
        st.integers(0, 2000),
    ),
    max_size=30,
)
order_strategy = st.sampled_from("<>")


def as_pcapng(frames: list[Frame], order: str = "<") -> bytes:
    packets = [make.packet(order, (f.time or 0) // 1000, f.wire_len, f.data) for f in frames]
    return make.section(order) + make.interface(order) + b"".join(packets)


def as_written(frames: list[Frame], form: str, order: str) -> tuple[bytes, list[Frame]]:
    """A file with the frames, and the frames as they must be read."""
    if form == "pcap":
        return make.pcap(frames, order), frames
    return as_pcapng(frames, order), [frame._replace(interface=0) for frame in frames]


@PLAIN
@given(frames_strategy, order_strategy, st.sampled_from(["pcap", "pcapng"]), st.integers(1, 40))
def test_round_trip(tmp_path: Path, frames: list[Frame], order: str, form: str, block_frames: int) -> None:
    content, expected = as_written(frames, form, order)
    (tmp_path / "a").write_bytes(content)
    source = FileSource([tmp_path / "a"], block_frames=block_frames)
    assert read(source) == (expected, "")
    assert source.truncated == ""
    assert source.progress() == (len(content), len(content))


@PLAIN
@given(frames_strategy, order_strategy, st.sampled_from(["pcap", "pcapng"]), st.data())
def test_any_cut_gives_the_frames_before_it(
    tmp_path: Path, frames: list[Frame], order: str, form: str, data: st.DataObject
) -> None:
    content, expected = as_written(frames, form, order)
    head = len(as_written([], form, order)[0])
    at = data.draw(st.integers(head, len(content)))
    (tmp_path / "a").write_bytes(content[:at])
    source = FileSource([tmp_path / "a"])
    got, error = read(source)
    assert error == ""
    assert got == expected[: len(got)]
    whole = as_written(frames[: len(got)], form, order)[0]
    assert len(whole) <= at < len(as_written(frames[: len(got) + 1], form, order)[0]) or len(got) == len(frames)
    assert bool(source.truncated) == (len(whole) != at)


@PLAIN
@given(
    st.sampled_from(["pcap", "pcapng"]),
    order_strategy,
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8))),
)
def test_damage_never_raises_anything_but_a_capture_error(
    tmp_path: Path, form: str, order: str, damage: list[tuple[int, bytes]]
) -> None:
    content = bytearray(as_written(SOME, form, order)[0])
    for at, new in damage:
        content[at : at + len(new)] = new
    (tmp_path / "a").write_bytes(content)
    read(FileSource([tmp_path / "a"]))


def test_nanoseconds(tmp_path: Path) -> None:
    frames = [Frame(TIME + 789, 4, b"abcd")]
    (tmp_path / "a").write_bytes(make.pcap(frames, ">", unit=1))
    assert read(FileSource([tmp_path / "a"])) == (frames, "")


def test_modified_pcap_with_longer_record_headers(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make.pcap(SOME, magic=0xA1B2CD34))
    assert read(FileSource([tmp_path / "a"])) == (SOME, "")


def test_link_type_without_the_bits_of_the_frame_check_sequence(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(make.pcap(SOME, linktype=0x54000000 | 113))
    source = FileSource([tmp_path / "a.pcap"])
    read(source)
    assert [(i.name, i.linktype, i.id) for i in source.interfaces] == [("a.pcap", 113, None)]
    assert source.linktypes == {113}


def test_files_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make.pcap(SOME[:2]))
    (tmp_path / "b").write_bytes(make.pcap([], linktype=101) + b"xyz")
    (tmp_path / "c").write_bytes(as_pcapng(SOME[2:]))
    source = FileSource([tmp_path / name for name in "abc"])
    frames, error = read(source)
    assert error == ""
    assert [frame.data for frame in frames] == [frame.data for frame in SOME]
    assert [i.linktype for i in source.interfaces] == [1, 101, 1]
    assert source.truncated == f"{tmp_path / 'b'}: cut short, the last 3 bytes are not a whole frame"


def test_a_large_file_is_found_the_fast_way_and_the_slow_way_alike(tmp_path: Path) -> None:
    """Payloads full of what looks like record headers, and a jump of the clock: guesses go wrong, frames do not."""
    bait = make.pcap(SOME)[24:][:400]
    frames = [Frame(TIME + (i + 10**6 * (i // 5000)) * 1_000_000_000, 600, bait[i % 97 :]) for i in range(12000)]
    for form in ("pcap", "pcapng"):
        content, expected = as_written(frames, form, "<")
        (tmp_path / form).write_bytes(content)
        assert read(FileSource([tmp_path / form])) == (expected, "")


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_gzip_of_several_members_and_cut(tmp_path: Path, form: str) -> None:
    content, expected = as_written(SOME * 500, form, "<")
    packed = gzip.compress(content[:1000]) + gzip.compress(content[1000:])
    (tmp_path / "a").write_bytes(packed)
    assert read(FileSource([tmp_path / "a"])) == (expected, "")
    (tmp_path / "a").write_bytes(packed[:-200])
    source = FileSource([tmp_path / "a"])
    got, error = read(source)
    assert error == ""
    assert got == expected[: len(got)]
    assert "cut short" in source.truncated
    (tmp_path / "a").write_bytes(packed[:600] + b"damage" + packed[606:])
    assert "damaged" in read(FileSource([tmp_path / "a"]))[1]


def test_a_pipe_may_have_any_file_descriptor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("no file descriptor above 1023 may be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while taken[-1] < 1024:
            taken.append(os.dup(taken[0]))
        both = os.open(tmp_path / "pipe", os.O_RDWR)  # nobody waits for another to open it
        os.write(both, make.pcap(SOME))
        source = FileSource([tmp_path / "pipe"])
        source.open()
        os.close(both)
        block = source.next_block(5)
        assert block is not None
        assert len(block) == len(SOME)
        source.close()
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = make.pcap(SOME)
    come, go = threading.Event(), threading.Event()

    def write() -> None:
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            pipe.write(content[: 24 + 16 + 60 + 5])
            come.set()
            go.wait(10)
            pipe.write(content[24 + 16 + 60 + 5 :])

    thread = threading.Thread(target=write)
    thread.start()
    source = FileSource([tmp_path / "pipe"])
    source.open()
    come.wait(10)
    block = source.next_block(5)
    assert block is not None
    assert make.frames_of(block, source) == SOME[:1]
    assert source.next_block(0.01) is None
    assert not source.done
    assert source.progress()[1] is None
    go.set()
    rest = []
    while not source.done:
        if (block := source.next_block(5)) is not None:
            rest += make.frames_of(block, source)
    thread.join()
    assert rest == SOME[1:]
    source.close()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input(tmp_path: Path, pack: object) -> None:
    code = (
        "from agent.capture.file import FileSource\ns = FileSource(['-']); s.open(); n = 0\n"
        "while not s.done:\n    b = s.next_block(5); n += len(b) if b is not None else 0\nprint(n)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pack(make.pcap(SOME)),
        capture_output=True,
        timeout=30,
        check=True,  # type: ignore[operator]
    )
    assert done.stdout == b"5\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"hello, this is no capture at all\n" * 3, "not a capture (neither pcap nor pcapng)"),
        (make.pcap([])[:20], "not a capture: it ends within the file header"),
        (b"\xd4\xc3\xb2\xa1\x09\x00\x04\x00" + bytes(16), "pcap version 9.4 is not known"),
    ],
)
def test_what_is_no_capture_is_told_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a").write_bytes(content)
    assert read(FileSource([tmp_path / "a"])) == ([], f"{tmp_path / 'a'}: {said}")


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"cannot read .*nowhere: No such file"):
        FileSource([tmp_path / "nowhere"]).open()
    with pytest.raises(CaptureError, match="it is a directory"):
        FileSource([tmp_path]).open()


def test_a_frame_of_an_absurd_length_stops_after_the_good_ones(tmp_path: Path) -> None:
    content = make.pcap(SOME[:2]) + make.pcap([Frame(TIME, 1 << 20, bytes(1 << 20))])[24:]
    (tmp_path / "a").write_bytes(content)
    got, error = read(FileSource([tmp_path / "a"]))
    assert got == SOME[:2]
    assert error.endswith("a frame of 1048576 bytes (at most 262144)")


def test_filter(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make.pcap(SOME))
    assert read(FileSource([tmp_path / "a"], bpf="greater 63")) == (SOME[3:], "")
    with pytest.raises(CaptureError, match=r"bad filter 'no such word': .*syntax error"):
        FileSource([tmp_path / "a"], bpf="no such word").open()


def test_a_filter_that_takes_nothing_does_not_hold_the_caller(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make.pcap(SOME * 1000))
    source = FileSource([tmp_path / "a"], bpf="less 1", block_frames=10)
    source.open()
    assert source.next_block(0) is None
    assert not source.done
    source.close()


def test_corpus_against_tshark(corpus: Path, tshark: str) -> None:
    fields = ("frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_id")
    arguments = [word for field in fields for word in ("-e", field)]
    files = sorted(corpus.glob("*.pcap*"))
    assert files
    for path in files:
        said = subprocess.run(
            [tshark, "-n", "-r", str(path), "-T", "fields", *arguments], capture_output=True, text=True, timeout=60
        )
        got, error = read(FileSource([path]))
        assert error == "", path
        expected = [line.split("\t") for line in said.stdout.splitlines()]
        assert [as_tshark(frame) for frame in got] == [[wrapped(time), *rest] for time, *rest in expected], path


def as_tshark(frame: Frame) -> list[str]:
    number = "" if frame.interface is None else str(frame.interface)
    return ["" if frame.time is None else nine(frame.time), str(frame.wire_len), str(len(frame.data)), number]


def nine(time: int) -> str:
    return f"{time // 10**9}.{time % 10**9:09d}"


def wrapped(time: str) -> str:
    """tshark's time as 64 bits of nanoseconds hold it: one file of the corpus has times beyond the year 2262."""
    if not time:
        return time
    seconds, fraction = time.split(".")
    return nine((int(seconds) * 10**9 + int(fraction) + (1 << 63)) % (1 << 64) - (1 << 63))


def test_all_files_are_looked_at_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(make.pcap(SOME))
    (tmp_path / "bad").write_bytes(b"hello")
    with pytest.raises(CaptureError, match="bad: not a capture"):
        FileSource([tmp_path / "good", tmp_path / "bad"]).open()
