"""Hypothesis strategies and helpers of the protocol's tests: column values, messages, damage to bytes."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from protocol.columns import (
    LIST_ITEM,
    NUMPY,
    Columns,
    ColumnValue,
    Dict,
    Lists,
    Maps,
    Text,
    Texts,
    maps_of,
    text_of,
    texts_of,
)
from protocol.messages import (
    Ack,
    Answer,
    Ask,
    Batch,
    Bye,
    Configure,
    Configured,
    Drain,
    Echo,
    EchoReply,
    Fetch,
    Fetched,
    Hello,
    Message,
    Refuse,
    Reject,
    Status,
    Tombstone,
    Welcome,
)
from protocol.schema import TABLES, Column, Table

U64 = st.integers(0, 2**64 - 1)
COUNT = st.integers(0, 2**63 - 1)
TIMES = st.integers(-(2**63), 2**63 - 1)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORDS = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20).filter(str.isprintable)


def integers(wire: str, rows: int) -> st.SearchStrategy[Any]:
    """Arrays of one integer kind: anything, the extremes, small steps, one value."""
    info = np.iinfo(NUMPY[wire])
    values = st.one_of(
        st.integers(int(info.min), int(info.max)),
        st.sampled_from([int(info.min), int(info.max), 0, 1]),
        st.integers(0, 100),
    )
    lists = st.one_of(st.lists(values, min_size=rows, max_size=rows), values.map(lambda v: [v] * rows))
    return lists.map(lambda v: np.array(v, dtype=NUMPY[wire]))


def ragged(wire: str, rows: int) -> st.SearchStrategy[Lists]:
    top = int(np.iinfo(LIST_ITEM[wire]).max)
    lists = st.lists(st.lists(st.integers(0, top), max_size=4), min_size=rows, max_size=rows)
    return lists.map(lambda v: lists_of(wire, v))


def lists_of(wire: str, items: list[list[int]]) -> Lists:
    flat = [n for item in items for n in item]
    return Lists(np.array([len(i) for i in items], dtype="u1"), np.array(flat, dtype=LIST_ITEM[wire]))


@st.composite
def dicts(draw: st.DrawFn, rows: int) -> Dict:
    values = draw(st.lists(STRINGS, min_size=1, max_size=5))
    codes = draw(st.lists(st.integers(0, len(values) - 1), min_size=rows, max_size=rows))
    return Dict(np.array(codes, dtype="<u4"), tuple(values))


def values_of(column: Column, rows: int) -> st.SearchStrategy[ColumnValue]:
    """Values of one column."""
    if column.wire == "addr":
        row = st.one_of(st.binary(min_size=16, max_size=16), st.just(bytes(16)))
        rows_ = st.one_of(st.lists(row, min_size=rows, max_size=rows), row.map(lambda r: [r] * rows))
        return rows_.map(lambda r: np.frombuffer(b"".join(r), dtype=np.uint8).reshape(rows, 16))
    if column.wire == "dict":
        return dicts(rows)
    if column.wire == "text":
        return st.lists(STRINGS, min_size=rows, max_size=rows).map(text_of)
    if column.wire in LIST_ITEM:
        return ragged(column.wire, rows)
    if column.wire == "list_text":
        return st.lists(st.lists(STRINGS, max_size=4), min_size=rows, max_size=rows).map(texts_of)
    if column.wire == "map":
        return st.lists(st.dictionaries(STRINGS, STRINGS, max_size=3), min_size=rows, max_size=rows).map(maps_of)
    return integers(column.wire, rows)


@st.composite
def columns_of(draw: st.DrawFn, table: Table, rows: int | None = None) -> Columns:
    count = draw(st.integers(1, 6)) if rows is None else rows
    return {c.name: draw(values_of(c, count)) for c in table.columns}


def to_list(value: ColumnValue) -> list[Any]:
    """A column as plain Python rows: what every test compares."""
    if isinstance(value, Dict):
        return [value.values[code] for code in value.codes]
    if isinstance(value, Text):
        edges = np.cumsum([0, *value.lengths.tolist()]).tolist()
        data = value.data.tobytes()
        return [data[a:b].decode() for a, b in itertools.pairwise(edges)]
    if isinstance(value, Lists):
        edges = np.cumsum([0, *value.lengths.tolist()]).tolist()
        return [value.values[a:b].tolist() for a, b in itertools.pairwise(edges)]
    if isinstance(value, Texts | Maps):
        edges = np.cumsum([0, *value.counts.tolist()]).tolist()
        strings = to_list(value.strings if isinstance(value, Texts) else value.values)
        items = strings if isinstance(value, Texts) else list(zip(to_list(value.keys), strings, strict=True))
        return [items[a:b] for a, b in itertools.pairwise(edges)]
    return [tuple(row) if value.ndim == 2 else row for row in value.tolist()]


SCALARS = st.one_of(st.none(), st.booleans(), COUNT, st.floats(allow_nan=False, allow_infinity=False), STRINGS)
PLAIN = st.dictionaries(STRINGS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4)
HELD = st.lists(st.tuples(st.integers(1, 2**63), st.integers(0, 2**32)).map(lambda t: [t[0], t[0] + t[1]]), max_size=4)
RETRY = st.floats(0, 86_400)


@st.composite
def extents(draw: st.DrawFn) -> dict[str, int]:
    first = draw(st.integers(-(2**63), 2**63 - 1))
    packets = draw(COUNT)
    return {
        "first": first,
        "last": draw(st.integers(first, 2**63 - 1)),
        "packets": packets,
        "flow_only": draw(st.integers(0, packets)),
    }


SEQ = st.integers(1, 2**64 - 1)
_HELLO = st.builds(
    Hello,
    versions=st.lists(st.integers(0, 1000), max_size=4),
    agent=NAMES,
    node=NAMES,
    epoch=U64,
    streams=st.lists(U64, max_size=4),
    software=NAMES,
    source=st.sampled_from(["live", "replay"]),
    wall=COUNT,
    stores=st.lists(NAMES, max_size=3),
    connection=NAMES,
    answers=st.lists(WORDS, max_size=3),
)
_WELCOME = st.builds(
    Welcome,
    version=COUNT,
    session=COUNT,
    store=NAMES,
    positions=st.dictionaries(U64, st.tuples(U64, HELD).map(list), max_size=3),
    window_batches=COUNT,
    window_bytes=COUNT,
    wall=COUNT,
)
_BATCH = st.builds(
    lambda extent, **rest: Batch(**extent, **rest),
    extents(),
    agent=NAMES,
    epoch=U64,
    seq=SEQ,
    kind=st.sampled_from(sorted(TABLES)),
    rows=st.integers(1, 131_072),
    raw_size=st.integers(0, 32 << 20),
    zstd=st.sampled_from([0, 1]),
    body=st.binary(max_size=40),
    ledger=PLAIN,
)
_TOMBSTONE = st.builds(
    lambda extent, **rest: Tombstone(**extent, **rest),
    extents(),
    agent=NAMES,
    epoch=U64,
    seq=SEQ,
    kind=st.sampled_from([*TABLES, "report"]),
    reason=st.one_of(st.just(""), WORDS),
    final=st.sampled_from([0, 1]),
    ledger=PLAIN,
)
_ACK = st.builds(
    Ack, epoch=U64, watermark=U64, held=HELD, window_batches=COUNT, window_bytes=COUNT, kept=st.lists(U64, max_size=3)
)
_STATUS = st.builds(
    Status, state=WORDS, level=WORDS, outbox_bytes=COUNT, outbox_batches=COUNT, wall=COUNT, evidence=PLAIN, ledger=PLAIN
)
SETTINGS = st.dictionaries(st.sampled_from(["filter", "detail", "l7"]), WORDS, max_size=3)
MESSAGE_OF: dict[str, st.SearchStrategy[Message]] = {
    "hello": _HELLO,
    "welcome": _WELCOME,
    "refuse": st.builds(Refuse, code=WORDS, detail=STRINGS, retry_after=RETRY),
    "batch": _BATCH,
    "tombstone": _TOMBSTONE,
    "ack": _ACK,
    "reject": st.builds(Reject, epoch=U64, seq=U64, code=WORDS, detail=STRINGS, final=st.sampled_from([0, 1])),
    "status": _STATUS,
    "echo": st.builds(Echo, id=U64),
    "echo_reply": st.builds(EchoReply, id=U64, wall=COUNT),
    "ask": st.builds(Ask, id=U64, about=WORDS, within=RETRY),
    "answer": st.builds(Answer, id=U64, body=PLAIN, refused=WORDS, detail=STRINGS),
    "fetch": st.builds(Fetch, id=U64, part=COUNT, filter=STRINGS, since=TIMES, until=TIMES, within=RETRY),
    "fetched": st.builds(
        Fetched,
        id=U64,
        part=COUNT,
        frames=COUNT,
        body=st.binary(max_size=20),
        reached=TIMES,
        refused=WORDS,
        interfaces=st.lists(st.tuples(STRINGS, st.integers(0, 65535)).map(list), max_size=3),
        last=st.sampled_from([0, 1]),
        kept=TIMES,
        overwritten=TIMES,
        detail=STRINGS,
        gaps=st.lists(st.tuples(COUNT, st.just(2**63 - 1), st.integers(-1, 9), WORDS).map(list), max_size=3),
    ),
    "configure": st.builds(Configure, id=U64, settings=SETTINGS),
    "configured": st.builds(Configured, id=U64, settings=SETTINGS, refused=WORDS, detail=STRINGS),
    "drain": st.builds(Drain, retry_after=RETRY),
    "bye": st.builds(Bye, reason=STRINGS),
}
"""One strategy per type word."""
MESSAGES_ANY = st.one_of(*MESSAGE_OF.values())

_HEADS = bytes([0xC0, 0xC1, 0xC3, 0xC6, 0xC9, 0xCB, 0xCF, 0xD3, 0xD8, 0xDB, 0xDD, 0xDF, 0xFF, 0x80, 0x90, 0xA1])


def damage(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four faults: bytes changed, heads planted, cut, doubled, taken out, lengths overstated."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        fault = rng.randrange(7)
        if fault == 0 and out:
            out[at] = rng.randrange(256)
        elif fault == 1 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif fault == 2 and out:
            out[at] = rng.choice(_HEADS)
        elif fault == 3:
            del out[at:]
        elif fault == 4:
            del out[at : at + rng.randint(1, 8)]
        elif fault == 5:
            out[at:at] = rng.choice([rng.randbytes(rng.randint(1, 8)), bytes([rng.choice(_HEADS)]) + b"\xff" * 4])
        elif out:
            end = at + rng.randint(1, 16)
            out[at:at] = out[at:end]
    return bytes(out)
