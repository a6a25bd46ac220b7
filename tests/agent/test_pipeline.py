"""The pipeline with its real parts: every packet in the books after every call, whatever goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture import Block, Counters, Interface
from agent.capture.file import FileSource
from agent.decode import decoder
from agent.decode.decoder import Decoder
from agent.flows import FlowTable
from agent.pipeline import Pipeline
from agent.seal import Sealer
from protocol.codec import unpack_body
from protocol.columns import Columns
from protocol.ledger import Report
from protocol.messages import Batch, Tombstone

S = 1_000_000_000
ETHERNET = 1


def frame(source: int, port: int, payload: int = 0) -> bytes:
    """UDP over IPv4 from 10.0.0.`source`."""
    ip = bytes([0x45, 0]) + (28 + payload).to_bytes(2, "big") + bytes([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, source])
    udp = port.to_bytes(2, "big") + b"\x00\x35" + (8 + payload).to_bytes(2, "big") + b"\0\0"
    return b"\2" * 6 + b"\4" * 6 + b"\x08\x00" + ip + bytes([10, 0, 0, 99]) + udp + bytes(payload)


def block_of(frames: list[bytes], start: int = 0, step: int = 1000) -> Block:
    lengths = np.array([len(f) for f in frames], dtype=np.uint32)
    return Block(
        data=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=np.cumsum(lengths, dtype=np.int64) - lengths,
        cap_len=lengths,
        wire_len=lengths,
        time=start + step * np.arange(len(frames), dtype=np.int64),
        iface=np.zeros(len(frames), dtype=np.uint16),
    )


class Rig:
    """A pipeline and everything it gave out, checked after each step."""

    def __init__(self, max_rows: int = 100, level: str = "packets", decoder: Any = None) -> None:
        report = Report()
        self.problems: list[str] = []
        self.out: list[Batch | Tombstone] = []
        decoder = decoder or Decoder([Interface("eth0", ETHERNET)])
        sealer = Sealer("node", 1, report, max_rows=max_rows)
        self.pipeline = Pipeline(
            decoder, FlowTable(), sealer, report, level, on_problem=lambda reason, error: self.problems.append(reason)
        )

    def take(self, items: Any) -> list[Batch | Tombstone]:
        self.out += items
        report = self.pipeline.report
        assert report.conserved, report
        assert report.flow_packets + report.flow_open <= report.captured
        assert all(Report.from_map(item.ledger).conserved for item in items)
        return list(items)

    def rows(self, kind: str) -> list[Columns]:
        return [unpack_body(b)[0] for b in self.out if isinstance(b, Batch) and b.kind == kind]

    def values(self, kind: str, name: str) -> list[int]:
        return [int(v) for columns in self.rows(kind) for v in np.asarray(columns[name])]

    def finish(self) -> Report:
        last = self.take(self.pipeline.finish())[-1]
        assert (last.kind, last.final) == ("report", 1)
        assert [item.seq for item in self.out] == list(range(1, len(self.out) + 1))
        report = Report.from_map(last.ledger)
        assert report == self.pipeline.report
        assert (report.open, report.flow_open, self.pipeline.buffer_bytes) == (0, 0, 0)
        assert len(self.values("packets", "frame_number")) == report.rows
        flow_packets = sum(self.values("flows", "packets")) + sum(self.values("flows", "packets_rev"))
        assert flow_packets == report.flow_packets
        assert sum(self.values("flows", "flow_only")) == report.flow_only
        return report


steps = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(0, 250)),
        st.tuples(st.just("tick"), st.integers(0, 60)),
        st.tuples(st.just("level"), st.sampled_from(["packets", "flows"])),
        st.tuples(st.just("seal"), st.just(0)),
    ),
    max_size=15,
)


@given(steps)
@settings(max_examples=60, deadline=None)
def test_the_books_balance_after_every_step(steps: list[tuple[str, Any]]) -> None:
    rig = Rig()
    fed, with_rows, now = 0, [], 0
    for step, value in steps:
        if step == "level":
            rig.pipeline.level = value
        elif step == "seal":
            rig.take(rig.pipeline.seal())
            assert rig.pipeline.buffer_bytes == 0
        elif step == "tick":
            now += value * S // 4
            rig.take(rig.pipeline.tick(now))
        else:
            rig.take(rig.pipeline.feed(block_of([frame(i % 7, 1000 + i % 3) for i in range(value)], now)))
            if rig.pipeline.level == "packets":
                with_rows += range(fed + 1, fed + value + 1)
            fed += value
    report = rig.finish()
    assert rig.values("packets", "frame_number") == with_rows
    assert (report.captured, report.rows, report.flow_only) == (fed, len(with_rows), fed - len(with_rows))
    assert (report.flow_packets, report.lost) == (fed, {})


def test_rows_leave_when_they_are_many_or_old() -> None:
    rig = Rig(max_rows=100)
    frames = [frame(1, 1)] * 150
    assert [b.rows for b in rig.take(rig.pipeline.feed(block_of(frames)))] == [100]
    assert rig.pipeline.buffer_bytes > 0
    assert rig.take(rig.pipeline.tick(1000)) == []
    assert [b.rows for b in rig.take(rig.pipeline.tick(1000 + S // 2))] == [50]
    assert (rig.pipeline.report.rows, rig.pipeline.report.flow_open) == (150, 150)


def test_rows_of_a_file_read_slowly_leave_too_and_its_flows_wait_for_its_own_time() -> None:
    rig = Rig()
    rig.take(rig.pipeline.feed(block_of([frame(1, 80)] * 50)))
    assert rig.take(rig.pipeline.due(1000)) == []
    assert [(b.kind, b.rows) for b in rig.take(rig.pipeline.due(3600 * S))] == [("packets", 50)]


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["", "", "", "tick", "flows", "packets"])), max_size=20))
@settings(deadline=None)
def test_batches_are_the_same_whatever_the_blocks(steps: list[tuple[int, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "SHEET", 16)
        rig, ports, now = Rig(max_rows=16), [], 0
        for size, then in steps:
            numbers = range(rig.pipeline.frames, rig.pipeline.frames + size)
            ports += list(numbers) if rig.pipeline.level == "packets" else []
            rig.take(rig.pipeline.feed(block_of([frame(1, number) for number in numbers])))
            now += S
            if then == "tick":
                rig.take(rig.pipeline.tick(now))
            elif then:
                rig.pipeline.level = then
        rig.finish()
    assert rig.values("packets", "src_port") == ports
    assert rig.values("packets", "frame_number") == [port + 1 for port in ports]
    assert all(item.rows <= 16 for item in rig.out if item.kind == "packets")


def test_flow_only_packets_are_open_until_their_flow_is_sealed() -> None:
    rig = Rig(level="flows")
    assert rig.take(rig.pipeline.feed(block_of([frame(1, 1)] * 5))) == []
    assert (rig.pipeline.report.open, rig.pipeline.report.flow_only) == (5, 0)
    rig.take(rig.pipeline.tick(20 * S))
    (batch,) = rig.take(rig.pipeline.tick(21 * S))
    assert (batch.kind, batch.packets, batch.flow_only) == ("flows", 5, 5)
    assert (rig.pipeline.report.open, rig.pipeline.report.flow_only) == (0, 5)


def test_a_files_own_time_closes_its_flows() -> None:
    rig = Rig(max_rows=1)
    for second in range(0, 40, 2):
        rig.take(rig.pipeline.feed(block_of([frame(1, 1)], second * S)))
    assert rig.values("flows", "packets") == [5, 5, 5]
    assert rig.finish().flow_packets == 20


class Broken(Decoder):
    """Raises on every block that holds the frame `bad`."""

    bad = 77

    def block(self, block: Block, first_number: int) -> Columns:
        if first_number <= self.bad < first_number + len(block):
            raise ZeroDivisionError("bug")
        return super().block(block, first_number)


def test_a_bug_in_the_decoder_costs_the_frames_next_to_it_and_is_told_once() -> None:
    rig = Rig(decoder=Broken([Interface("eth0", ETHERNET)]))
    rig.take(rig.pipeline.feed(block_of([frame(1, 1)] * 640)))
    report = rig.finish()
    numbers = rig.values("packets", "frame_number")
    assert report.captured == 640
    assert report.lost == {"capture_error": 640 - len(numbers)}
    assert 1 <= report.lost["capture_error"] <= 10
    assert 77 not in numbers
    assert {1, 640} <= set(numbers)
    assert rig.problems == ["capture_error"]


class BrokenFlows(FlowTable):
    def add(self, columns: Columns, with_rows: bool) -> None:
        raise ZeroDivisionError("bug")


@pytest.mark.parametrize(("level", "rows", "lost"), [("packets", 8, {}), ("flows", 0, {"encode_error": 8})])
def test_a_bug_in_the_flow_table_leaves_the_rows(level: str, rows: int, lost: dict[str, int]) -> None:
    report = Report()
    decoder, told = Decoder([Interface("eth0", ETHERNET)]), []
    pipeline = Pipeline(
        decoder,
        BrokenFlows(),
        Sealer("node", 1, report),
        report,
        level,
        on_problem=lambda reason, error: told.append((reason, str(error))),
    )
    for _ in range(2):
        pipeline.feed(block_of([frame(1, 1)] * 4))
    pipeline.finish()
    assert (pipeline.report.rows, pipeline.report.lost, pipeline.report.open) == (rows, lost, 0)
    assert pipeline.report.conserved
    assert told == [("encode_error", "bug")]


def test_counters_enter_the_books_and_books_can_be_sent_alone() -> None:
    rig = Rig()
    rig.pipeline.counters(Counters(kernel_packets=9, kernel_dropped=2, discarded={"loopback_copy": 3}))
    item = rig.pipeline.books()
    assert (item.kind, item.final, item.seq) == ("report", 0, 1)
    assert (item.ledger["kernel_packets"], item.ledger["kernel_dropped"]) == (9, 2)
    assert rig.pipeline.report.discarded == {"loopback_copy": 3}


def test_a_level_that_does_not_exist_is_refused() -> None:
    rig = Rig()
    with pytest.raises(ValueError, match="no level"):
        rig.pipeline.level = "none"


def test_a_report_handed_out_does_not_change() -> None:
    rig = Rig()
    before = rig.pipeline.report
    rig.take(rig.pipeline.feed(block_of([frame(1, 1)])))
    assert before == Report()


def test_every_file_of_the_corpus_balances(corpus: Path) -> None:
    files = sorted(p for p in corpus.iterdir() if p.suffix in (".pcap", ".pcapng"))
    assert files
    for path in files:
        source = FileSource([path])
        source.open()
        rig = Rig(max_rows=1000, decoder=Decoder(source.interfaces))
        while (block := source.next_block(1.0)) is not None:
            rig.take(rig.pipeline.feed(block))
        report = rig.finish()
        assert (report.captured, report.flow_packets) == (report.rows, report.rows), path.name
        assert report.rows > 0, path.name
        assert rig.values("packets", "frame_number") == list(range(1, report.rows + 1)), path.name
