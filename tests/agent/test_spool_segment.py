"""The format of a spool's file: whatever is cut or flipped, what is read is what was written, and losses have names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spool.index import Recovery, Segment, owed
from agent.spool.segment import DONE, SENT, Foreign, Mark, Record, pack_header, pack_mark, pack_record, scan
from protocol.codec import encode
from protocol.messages import Tombstone

AGENT = "node-1"
HEADER = pack_header(AGENT, 77)


def record(seq: int, size: int, epoch: int = 9, store: str = "") -> Record:
    stub = Tombstone(AGENT, epoch, seq, "packets", packets=seq)
    return Record(stub, bytes((seq + n) % 256 for n in range(size)), store)


def pack(found: list[Record | Mark], key: int = 77) -> bytes:
    parts = [pack_header(AGENT, key)]
    for each in found:
        parts += pack_record(each, key) if isinstance(each, Record) else pack_mark(each, key)
    return b"".join(parts)


RECORDS = st.lists(st.tuples(st.integers(1, 400), st.sampled_from(["", "store"])), min_size=1, max_size=6).map(
    lambda sizes: [record(n, size, store=store) for n, (size, store) in enumerate(sizes, start=1)]
)


def test_what_is_written_is_read() -> None:
    report = Tombstone(AGENT, 9, 3, "report", final=1, ledger={"captured": 5})
    found = [record(1, 100), Mark(SENT, 9, [(1, 1)], "s"), Mark(DONE, 9, [(1, 4), (7, 9)]), record(2, 1, store="s")]
    found.append(Record(report, encode(report), ""))
    assert scan(pack(found), AGENT).found == found


@given(RECORDS, st.data())
def test_of_a_file_that_is_cut_the_whole_records_are_read_and_one_may_be_named(found: list[Record], data) -> None:
    whole = pack(list(found))
    cut = data.draw(st.integers(0, len(whole)))
    result = scan(whole[:cut], AGENT)
    intact = [r for r in result.found if r.data is not None]
    assert intact == found[: len(intact)]
    damaged = [r for r in result.found if r.data is None]
    assert [r.stub for r in damaged] == [r.stub for r in found[len(intact) : len(intact) + len(damaged)]]
    assert len(damaged) <= 1
    ends = [len(pack(list(found[: n + 1]))) for n in range(len(found))]
    assert len(intact) >= sum(end <= cut for end in ends)


@given(RECORDS, st.data())
def test_one_wrong_byte_costs_one_record_at_most_and_its_name_is_known(found: list[Record], data) -> None:
    whole = bytearray(pack(list(found)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    result = scan(bytes(whole), AGENT)
    assert [r.stub for r in result.found] == [r.stub for r in found]
    assert sum(r.data is None for r in result.found) <= 1
    for was, now in zip(found, result.found, strict=True):
        assert now in (was, replace(was, data=None))


@given(RECORDS, st.data())
def test_a_place_overwritten_costs_what_lay_there_and_never_gives_anything_else(found: list[Record], data) -> None:
    whole = bytearray(pack(list(found)))
    first = data.draw(st.integers(len(HEADER), len(whole) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=600))
    whole[first : first + len(junk)] = junk[: len(whole) - first]
    result = scan(bytes(whole), AGENT)
    allowed = [*found, *(replace(r, data=None) for r in found)]
    assert all(r in allowed for r in result.found)
    seqs = [r.stub.seq for r in result.found]
    assert seqs == sorted(set(seqs))
    assert len(seqs) == len(found) or result.unreadable
    untouched = [r for n, r in enumerate(found) if len(pack(list(found[: n + 1]))) <= first]
    assert result.found[: len(untouched)] == untouched


@given(st.binary(max_size=2000))
def test_no_bytes_raise(junk: bytes) -> None:
    scan(junk, AGENT)
    scan(HEADER + junk, AGENT)


def test_an_older_file_in_the_same_blocks_is_not_read() -> None:
    old = pack([record(5, 50)], key=78)[len(HEADER) :]
    result = scan(pack([record(1, 50)]) + old, AGENT)
    assert [r.stub.seq for r in result.found] == [1]
    assert result.unreadable == 1


def test_zeros_at_the_end_are_no_loss() -> None:
    result = scan(pack([record(1, 50)]) + bytes(5000), AGENT)
    assert (len(result.found), result.unreadable, result.cut) == (1, 0, 5000)


def test_files_of_others_are_not_ours() -> None:
    with pytest.raises(Foreign, match="node-1"):
        scan(pack([record(1, 50)]), "node-2")


SEQS = st.lists(st.integers(1, 6), max_size=3)
LOG = st.lists(st.one_of(st.integers(1, 6), st.tuples(st.sampled_from([SENT, DONE]), SEQS)), max_size=20)


@given(LOG, st.integers(1, 4))
def test_the_last_word_on_each_batch_counts(log: list, files: int) -> None:
    """A batch written again, or marked, in the same file or a later one: what is owed is what a plain reading gives."""
    written: dict[int, Record] = {}
    stores: dict[int, str] = {}
    entries: list[Record | Mark] = []
    for n, entry in enumerate(log, start=1):
        if isinstance(entry, int):
            written[entry] = record(entry, n)
            stores[entry] = ""
            entries.append(written[entry])
            continue
        kind, seqs = entry
        entries.append(Mark(kind, 9, [(seq, seq) for seq in seqs], f"s{n}" if kind == SENT else ""))
        for seq in seqs:
            if kind == SENT:
                stores[seq] = f"s{n}"
            else:
                written.pop(seq, None)
    size = -(-len(entries) // files) or 1
    parts = [entries[n : n + size] for n in range(0, len(entries), size)]
    recovery, segments = Recovery(), []
    for number, part in reversed(list(enumerate(parts, start=1))):
        segments.insert(0, Segment(number, 0, 0.0))
        recovery.add(segments[0], part)
    found = [each for segment, part in zip(segments, parts, strict=True) for each in owed(segment, part)]
    assert {each.stub.seq: each for each in found} == written
    assert len(found) == len(written) == sum(segment.batches for segment in segments)
    assert all(recovery.stores.get((9, seq), "") == stores[seq] for seq in written)
    assert sum(segment.packets for segment in segments) == sum(written)
