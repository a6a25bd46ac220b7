"""The compiled kernel makes the records that numpy makes, and it is never used where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow_naive import ACK, FIN, RST, SYN, TCP, Naive, Packet, S, columns_of, rows_of, sorted_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mutants import block_of_files

from agent import flow_compiled, flows, kernel
from agent.capture import pick
from agent.decode.decoder import Decoder
from agent.flow_store import Store
from agent.flows import FlowTable
from protocol.built import VARIABLE, complaints
from tools.fidelity import captures

pytestmark = pytest.mark.skipif(kernel.load() is None, reason="the kernel is not built or not wanted")
FRAMES = 700
"""Frames of a block: conversations go on over several."""

talk = st.builds(
    Packet,
    time=st.integers(0, 400).map(lambda tenths: tenths * S // 10),
    layers=st.sampled_from([TCP, TCP, TCP, TCP & ~int(flows.Has.TCP_SEQ), TCP & ~int(flows.Has.TIME)]),
    src=st.just(1),
    dst=st.just(1),
    src_port=st.sampled_from([1, 2]),
    dst_port=st.sampled_from([1, 2]),
    flags=st.sampled_from([ACK, ACK, SYN, SYN | ACK, FIN | ACK, RST, SYN | FIN]),
    seq=st.integers(0, 12) | st.integers((1 << 32) - 3, (1 << 32) - 1),
    ack=st.integers(0, 5),
    length=st.sampled_from([0, 0, 1, 2, 5]),
    window=st.sampled_from([0, 9, 9]),
)


def numpy_table(*laws: int) -> FlowTable:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "off")
        return FlowTable(*laws)


def inside(table: FlowTable) -> list[Any]:
    """Key, record and state of every conversation."""
    store = table._store
    slots = store.taken()
    rows = np.concatenate((store.keys[slots].view(np.int64), store.rows[slots], store.states[slots]), axis=1)
    return sorted(rows.tolist())


def both(*laws: int) -> tuple[FlowTable, FlowTable]:
    compiled, plain = FlowTable(*laws), numpy_table(*laws)
    assert compiled._compiled is not None
    assert plain._compiled is None
    return compiled, plain


def test_every_file_of_the_corpus(corpus: Path) -> None:
    records = 0
    for block, interfaces in block_of_files(captures(corpus)):
        compiled, plain = both()
        decoder = Decoder(interfaces)
        for at in range(0, len(block), FRAMES):
            columns = decoder.block(pick(block, slice(at, at + FRAMES)), at + 1)
            compiled.add(columns, at % 2 == 0)
            plain.add(columns, at % 2 == 0)
            assert inside(compiled) == inside(plain)
            assert compiled.last_time == plain.last_time
            now = (plain.last_time or 0) + S
            rows = sorted_rows(rows_of(plain.expire(now)))
            assert sorted_rows(rows_of(compiled.expire(now))) == rows
            records += len(rows)
        assert sorted_rows(rows_of(compiled.flush())) == sorted_rows(rows_of(plain.flush()))
    assert records > 100


@given(st.lists(st.lists(talk, max_size=40), max_size=4), st.sampled_from([(10, 5), (10, 50), (3, 10)]))
@settings(max_examples=300, deadline=None)
def test_each_word_of_the_table(parts: list[list[Packet]], seconds: tuple[int, int]) -> None:
    compiled, plain = both(*(s * S for s in seconds))
    for part in parts:
        for table in (compiled, plain):
            table.add(columns_of(part), True)
        assert inside(compiled) == inside(plain)
    assert sorted_rows(rows_of(compiled.flush())) == sorted_rows(rows_of(plain.flush()))


def test_more_new_keys_and_more_ends_than_there_is_room_for() -> None:
    """Both fill up in the midst of a block, and come again after records were dropped."""
    many = [Packet(src_port=n % 3000, time=s * 12 * S) for s in range(3) for n in range(3000)]
    compiled, naive = FlowTable(), Naive(flows.ACTIVE_NS, flows.IDLE_NS)
    for _ in range(2):
        compiled.add(columns_of(many), True)
        naive.block(many, True)
        assert sorted_rows(rows_of(compiled.flush())) == sorted_rows(naive.flush())
        naive.isn.clear()
        assert len(compiled) == 0


def test_words_that_are_not_ours_turn_the_kernel_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_compiled, "NAMES", flow_compiled.NAMES[1:])
    assert flow_compiled.load(Store(), np.zeros(6, np.uint64), 1, 1) is None
    assert "other words" in complaints.pop()


def test_what_is_read_of_a_block_has_the_types_of_the_columns() -> None:
    columns = columns_of([Packet()])
    for name, kind in flow_compiled.COLUMNS.items():
        value = columns[name].codes if name == "iface" else columns[name]
        assert value.dtype == np.dtype(kind), name
