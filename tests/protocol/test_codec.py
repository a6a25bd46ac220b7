"""The codec: every message comes back, garbage gives a RemoteError and nothing else, and memory stays bounded."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import MESSAGE_OF, MESSAGES_ANY, columns_of, damage, to_list

from protocol.built import VARIABLE
from protocol.codec import choose_version, decode, encode, pack_body, unpack_body, zstd
from protocol.columns import MAX_DICT, NUMPY, Columns, Dict, empty, text_of
from protocol.errors import LocalError, RemoteError, WrongBatch, WrongMessage
from protocol.limits import MAX_HELD, MAX_MESSAGE, MAX_RANGES, MAX_RAW, MAX_ROWS, MAX_VALUES
from protocol.messages import MESSAGES, Ack, Batch, Bye, Echo, Hello, Message, Reject, Tombstone, Welcome
from protocol.packing import GROUPS
from protocol.schema import PACKETS, TABLES

MIB = 1 << 20


def batch(body: bytes = b"", raw_size: int = 0, compressed: int = 0, kind: str = "packets", rows: int = 1) -> Batch:
    return Batch("a", 1, 1, kind, rows, rows, 0, 0, 1, raw_size, compressed, body)


def sealed(kind: str, columns: Columns) -> Batch:
    return batch(*pack_body(kind, columns), kind, len(columns["layers"]))


def sender_of(message: Message) -> str:
    return next(sender for cls, sender in MESSAGES.values() if cls is type(message))


def other(sender: str) -> str:
    return "hub" if sender == "agent" else "agent"


def read(data: Any, sender: str) -> Message | RemoteError:
    """What a peer does with bytes: the message with its columns read, or the RemoteError; all else escapes."""
    try:
        message, _ = decode(data, sender)
        if isinstance(message, Batch):
            columns, _ = unpack_body(message)
            assert {len(value) for value in columns.values()} == {message.rows}
        return message
    except RemoteError as error:
        return error


def code_of(data: Any, sender: str) -> str:
    result = read(data, sender)
    assert isinstance(result, RemoteError), result
    return result.code


# -- messages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", MESSAGES)
@given(data=st.data())
@settings(max_examples=40)
def test_every_message_comes_back(word: str, data: st.DataObject) -> None:
    message = data.draw(MESSAGE_OF[word])
    assert decode(encode(message), MESSAGES[word][1]) == (message, 0)


@given(MESSAGES_ANY, st.dictionaries(st.text(max_size=5).map("x.".__add__), st.integers(0, 9), max_size=5))
def test_unknown_keys_are_dropped_and_counted(message: Message, extra: dict[str, int]) -> None:
    data = msgpack.packb({**msgpack.unpackb(encode(message), strict_map_key=False), **extra, 7: None})
    assert decode(data, sender_of(message)) == (message, len(extra) + 1)


@given(MESSAGES_ANY)
def test_the_wrong_sender_is_refused(message: Message) -> None:
    assert code_of(encode(message), other(sender_of(message))) == "unknown_type"


@pytest.mark.parametrize("word", ["", "HELLO", "hello ", "x" * 1000, None, 7, b"hello", True, ["hello"], {"a": 1}])
def test_an_unknown_type_is_refused(word: Any) -> None:
    result = read(msgpack.packb({"t": word}), "agent")
    assert isinstance(result, WrongMessage)
    assert result.code == "unknown_type"
    assert len(result.detail) < 100


def test_without_a_type_nothing_is_taken() -> None:
    assert code_of(msgpack.packb({"id": 1}), "agent") == "unknown_type"


@pytest.mark.parametrize("word", MESSAGES)
@given(data=st.data())
@settings(max_examples=20)
def test_required_keys_are_required_and_the_others_are_not(word: str, data: st.DataObject) -> None:
    cls, sender = MESSAGES[word]
    whole = msgpack.unpackb(encode(data.draw(MESSAGE_OF[word])), strict_map_key=False)
    for f in fields(cls):
        rest = msgpack.packb({k: v for k, v in whole.items() if k != f.name})
        required = f.default is f.default_factory
        result = read_message(rest, sender)
        missing = isinstance(result, RemoteError) and result.detail == f"{word} without {f.name}"
        assert missing == required, f.name


def read_message(data: bytes, sender: str) -> Message | RemoteError:
    try:
        return decode(data, sender)[0]
    except RemoteError as error:
        return error


WRONG: dict[str, list[Any]] = {
    "int": [True, None, 1.0, "1", b"1", [1], {}],
    "str": [True, None, 1, b"x", ["x"], {}],
    "bytes": [True, None, 1, "x", [b"x"], {}],
    "float": [True, None, "1", float("nan"), float("inf"), -1.0, []],
    "list": [True, None, 1, "x", b"x", {}],
    "dict": [True, None, 1, "x", b"x", []],
}


@pytest.mark.parametrize("word", MESSAGES)
@given(data=st.data())
@settings(max_examples=5)
def test_a_wrong_type_is_refused_in_every_place(word: str, data: st.DataObject) -> None:
    cls, sender = MESSAGES[word]
    whole = msgpack.unpackb(encode(data.draw(MESSAGE_OF[word])), strict_map_key=False)
    for f in fields(cls):
        kind = {"Held": "list", "Positions": "dict"}.get(str(f.type), str(f.type).split("[")[0])
        for value in WRONG[kind]:
            result = read_message(msgpack.packb({**whole, f.name: value}), sender)
            assert isinstance(result, RemoteError), (f.name, value)
            assert result.code == "bad_key"


@pytest.mark.parametrize("data", ["text", bytearray(b"\x80"), memoryview(b"\x80"), None, 7])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    assert code_of(data, "agent") == "bad_msgpack"


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x80", b"\x90", b"\xc1", b"\xc0", b"\x01", b"\xa1t", msgpack.packb([1]), b"\x81\x90\x01"]
)
def test_what_is_not_one_map_is_refused(data: bytes) -> None:
    assert code_of(data, "agent") in ("bad_msgpack", "unknown_type")


def test_strings_that_are_not_utf8_are_refused() -> None:
    data = encode(Bye("abc")).replace(b"abc", b"a\xffc")
    assert code_of(data, "agent") == "bad_msgpack"


# -- our own mistakes ----------------------------------------------------------------------------------------------


def test_what_cannot_be_sent_is_our_own_mistake() -> None:
    with pytest.raises(LocalError, match="larger"):
        encode(batch(bytes(MAX_MESSAGE), MAX_MESSAGE))
    with pytest.raises(LocalError, match="encoded"):
        encode(Bye("\udcff"))
    with pytest.raises(LocalError, match="encoded"):
        encode(replace(batch(), ledger={"captured": 2**64}))


def test_the_largest_messages_that_we_build_can_be_read() -> None:
    held = [[2 * n, 2 * n] for n in range(1, MAX_HELD + 1)]
    spread = {e + 2**63: [1, held] for e in range(MAX_RANGES // MAX_HELD)}
    for message in (
        Ack(1, 0, held, kept=list(range(MAX_RANGES))),
        Welcome(1, 1, "s", spread, 1, 1),
        Welcome(1, 1, "s", {e: [1, [[3, 3]]] for e in range(20_000)}, 1, 1),
        Hello([1], "a" * 253, "n" * 253, 1, list(range(2**63, 2**63 + 1024)), stores=["s" * 253] * 64),
        Reject(1, 1, "bad_key", "d" * 100_000, 1),
    ):
        assert decode(encode(message), sender_of(message)) == (message, 0)


def test_the_largest_dictionaries_that_we_pack_can_be_read() -> None:
    for name, table in TABLES.items():
        strings = tuple(f"{i:05}" for i in range(MAX_DICT))
        big = Dict(np.arange(MAX_ROWS, dtype="<u4") % MAX_DICT, strings)
        columns = {c.name: big if c.wire == "dict" else empty(c, MAX_ROWS) for c in table.columns}
        back, _ = unpack_body(sealed(name, columns))
        assert to_list(back["iface"])[-1] == strings[-1]


def test_the_newest_common_version_is_chosen() -> None:
    assert choose_version([7, 1]) == 1
    with pytest.raises(WrongMessage) as caught:
        choose_version([2, 3])
    assert caught.value.code == "unknown_version"


# -- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_body_comes_back_over_the_wire(kind: str, data: st.DataObject) -> None:
    columns = data.draw(columns_of(TABLES[kind]))
    message, _ = decode(encode(sealed(kind, columns)), "agent")
    assert isinstance(message, Batch)
    back, unknown = unpack_body(message)
    assert unknown == 0
    assert {k: to_list(v) for k, v in back.items()} == {k: to_list(v) for k, v in columns.items()}


def test_a_body_is_compressed_only_where_that_gains() -> None:
    rng = np.random.default_rng(1)
    plain = {c.name: empty(c, 1000) for c in PACKETS.columns}
    noise = {c.name: rng.integers(0, 256, (1000, 16), np.uint8) for c in PACKETS.columns if c.wire == "addr"}
    noise |= {c.name: rng.integers(0, 2**63, 1000, np.uint64) for c in PACKETS.columns if c.wire == "u8"}
    small, large = sealed("packets", {**plain, "info": text_of(["x" * 50] * 1000)}), sealed("packets", plain | noise)
    assert (small.zstd, len(small.body) < small.raw_size) == (1, True)
    assert (large.zstd, len(large.body)) == (0, large.raw_size)


def test_columns_that_no_peer_takes_are_our_own_mistake() -> None:
    columns = {c.name: empty(c, MAX_DICT) for c in PACKETS.columns}
    long = Dict(np.arange(MAX_DICT, dtype="<u4"), tuple(f"{i:0150}" for i in range(MAX_DICT)))
    with pytest.raises(LocalError, match="no peer takes"):
        pack_body("packets", {**columns, "l7": long})


def test_columns_larger_than_the_limit_are_our_own_mistake() -> None:
    columns = {c.name: empty(c, 9000) for c in PACKETS.columns}
    with pytest.raises(LocalError, match="larger"):
        pack_body("packets", {**columns, "info": text_of(["x" * 4096] * 9000)})


def body_code(message: Batch) -> str:
    with pytest.raises(WrongBatch) as caught:
        unpack_body(message)
    return caught.value.code


RAW = msgpack.packb({"len": ["const", bytes(4)]})
MANY = msgpack.packb({f"c{i}": 0 for i in range(1025)})
FRAME = zstd.compress(RAW)
SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"skip"


@pytest.mark.parametrize(
    ("body", "raw_size", "compressed", "code"),
    [
        (RAW, len(RAW) + 1, 0, "bad_zstd"),
        (RAW, len(RAW) - 1, 0, "bad_zstd"),
        (b"", 0, 0, "bad_msgpack"),
        (b"", 0, 1, "bad_zstd"),
        (RAW, len(RAW), 1, "bad_zstd"),
        (FRAME, len(RAW), 0, "bad_zstd"),
        (FRAME, len(RAW) + 1, 1, "bad_zstd"),
        (FRAME, len(RAW) - 1, 1, "bad_zstd"),
        (FRAME, MAX_RAW, 1, "bad_zstd"),
        (FRAME[:-1], len(RAW), 1, "bad_zstd"),
        (FRAME + b"x", len(RAW), 1, "bad_zstd"),
        (FRAME + FRAME, len(RAW), 1, "bad_zstd"),
        (FRAME + FRAME, 2 * len(RAW), 1, "bad_zstd"),
        (FRAME + SKIPPABLE, len(RAW), 1, "bad_zstd"),
        (SKIPPABLE + FRAME, len(RAW), 1, "bad_zstd"),
        (zstd.compress(b""), 0, 1, "bad_msgpack"),
        (zstd.compress(b"\xc0"), 1, 1, "bad_msgpack"),
        (msgpack.packb({1: []}), 4, 0, "bad_zstd"),
        (msgpack.packb({1: []}), 3, 0, "bad_column"),
        (msgpack.packb({"len": None}), 6, 0, "bad_column"),
        (MANY, len(MANY), 0, "bad_column"),
    ],
)
def test_a_body_that_lies_is_refused_by_its_code(body: bytes, raw_size: int, compressed: int, code: str) -> None:
    assert body_code(batch(body, raw_size, compressed)) == code


def bomb(size: int) -> bytes:
    compressor = zstd.ZstdCompressor()
    piece = bytes(16 * MIB)
    parts = [compressor.compress(piece) for _ in range(size // len(piece))]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.parametrize("claim", [0, 100, MAX_RAW])
def test_a_bomb_takes_no_more_than_it_claims(claim: int) -> None:
    small = bomb(1024 * MIB)
    assert len(small) < 200_000
    peak = peak_of(lambda: body_code(batch(small, claim, 1)))
    assert peak <= 2 * claim + MIB


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    # magic, descriptor without a size, window exponent 10+17: 128 MiB; then one last raw block with the columns
    block = struct.pack("<I", len(RAW) << 3 | 1)[:3] + RAW
    head = struct.pack("<I", 0xFD2FB528) + b"\0"
    assert unpack_body(batch(head + bytes([10 << 3]) + block, len(RAW), 1))[1] == 0
    assert body_code(batch(head + bytes([17 << 3]) + block, len(RAW), 1)) == "bad_zstd"


# -- garbage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", MESSAGES)
@given(data=st.data())
@settings(max_examples=10)
def test_every_prefix_is_refused(word: str, data: st.DataObject) -> None:
    encoded = encode(data.draw(MESSAGE_OF[word]))
    for size in range(len(encoded)):
        assert code_of(encoded[:size], MESSAGES[word][1]) == "bad_msgpack"


@given(MESSAGES_ANY, st.integers(0, 2**32))
@settings(max_examples=500)
def test_damage_is_refused_or_a_message(message: Message, seed: int) -> None:
    read(damage(encode(message), random.Random(seed)), sender_of(message))


@pytest.mark.parametrize("kind", TABLES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_body_is_refused_or_a_value(kind: str, data: st.DataObject) -> None:
    columns = data.draw(columns_of(TABLES[kind], 3))
    body, raw_size, compressed = pack_body(kind, columns)
    raw = zstd.decompress(body) if compressed else body
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for broken in (damage(raw, rng) for _ in range(10)):
        for message in (batch(broken, len(broken), 0, kind, 3), batch(zstd.compress(broken), len(broken), 1, kind, 3)):
            with contextlib.suppress(WrongBatch):
                for value in unpack_body(message)[0].values():
                    assert len(to_list(value)) == 3
    with contextlib.suppress(WrongBatch):
        unpack_body(batch(damage(body, rng), raw_size, compressed, kind, 3))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_noise_is_refused(noise: bytes) -> None:
    for sender in ("agent", "hub"):
        read(noise, sender)
    read(b"\x82\xa1t\xa4echo\xa2id" + noise, "agent")


# -- memory and time -----------------------------------------------------------------------------------------------


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def echo_with(value: bytes) -> bytes:
    """An echo with one unknown key, which holds `value`."""
    return b"\x83\xa1t\xa4echo\xa2id\x01\xa1z" + value


def array_of(item: bytes, number: int) -> bytes:
    return b"\xdd" + struct.pack(">I", number) + item * number


_FIT = MAX_VALUES - 100
_FLOATS = b"\x81\xcb" + struct.pack(">d", 1.5) + b"\xcb" + struct.pack(">d", 2.5)
_LONG = b"\xdb" + struct.pack(">I", 65_536) + b"a" * 65_532 + "😀".encode()  # one such character: 4 bytes for each
_SHORT = b"\xd9\x39" + b"a" * 53 + "😀".encode()
_BINARY = b"\xc6" + struct.pack(">I", 7 * MIB) + bytes(7 * MIB)

COSTLY: dict[str, tuple[bytes, str]] = {
    "16 MiB of nil": (array_of(b"\xc0", MAX_MESSAGE - 30), "too_large"),
    "16 MiB of empty maps": (array_of(b"\x80", MAX_MESSAGE - 30), "too_large"),
    "16 MiB of empty arrays in arrays": (array_of(array_of(b"\x90", 1000), 16_000), "too_large"),
    "as many empty maps as may be": (array_of(b"\x80", _FIT), ""),
    "as many small maps as may be": (array_of(_FLOATS, _FIT // 3), ""),
    "long strings, one wide character each": (array_of(_LONG, 127), ""),
    "short strings, one wide character each": (array_of(_SHORT, 140_000), ""),
    "as much as may be of all": (b"\x93" + array_of(_SHORT, 140_000) + array_of(b"\x80", 120_000) + _BINARY, ""),
    "more strings than may be": (array_of(_LONG, 254), "too_large"),
    "a string that is too long": (b"\xdb" + struct.pack(">I", MIB) + bytes(MIB), "too_large"),
    **{
        f"1 GiB claimed by {head:#x}": (bytes([head]) + struct.pack(">I", 1 << 30) + bytes(100), code)
        for head, code in ((0xDD, "too_large"), (0xDF, "too_large"), (0xDB, "too_large"), (0xC6, "bad_msgpack"))
    },
    **{f"extension {head:#x}": (bytes([head]) + bytes(20), "bad_msgpack") for head in (*range(0xC7, 0xCA), 0xD4, 0xD8)},
    "extension of 1 GiB": (b"\xc9" + struct.pack(">Ib", 1 << 30, 5) + bytes(9), "bad_msgpack"),
    "timestamp": (b"\xd6\xff" + bytes(4), "bad_msgpack"),
    "deep": (b"\x91" * 2000 + b"\xc0", "too_large"),
    "deeper than the stack": (b"\x91" * 16_000_000 + b"\xc0", "too_large"),
    "deep claims": ((b"\xdd" + struct.pack(">I", 200_000)) * 1000, "too_large"),
    "deep maps": (b"\x81\xa1k" * 2000 + b"\xc0", "too_large"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_message_takes_what_the_limits_allow_whatever_it_claims(name: str) -> None:
    value, code = COSTLY[name]
    data = echo_with(value)
    assert len(data) <= MAX_MESSAGE
    result: list[Message | RemoteError] = []
    peak = peak_of(lambda: result.append(read(data, "agent")))
    assert (result[0].code if isinstance(result[0], RemoteError) else "") == code
    assert peak <= (3.6 * MAX_MESSAGE if len(data) > 4 * MIB else 25 * MIB)
    if code:
        assert peak < 10 * MIB


def raw(width: int, payload: bytes) -> list[Any]:
    return ["raw", width, payload]


def _widest() -> dict[str, Any]:
    """Every column of one value a row, of a few bytes each that become all its rows."""
    wide = {**{wire: np.dtype(dtype).itemsize for wire, dtype in NUMPY.items()}, "addr": 16}
    groups = ["delta", bytes(8), raw(1, b"\1" + bytes(MAX_ROWS - 2))]
    return {
        GROUPS: groups,
        **{c.name: ["group", ["const", bytes(wide[c.wire])]] for c in PACKETS.columns if c.wire in wide},
        **{c.name: ["dict", ["sorted", ["const", bytes(4)]], ["a"]] for c in PACKETS.columns if c.wire == "dict"},
    }


WIDEST = _widest()


def test_a_message_over_the_limit_is_not_looked_at() -> None:
    assert code_of(bytes(MAX_MESSAGE + 1), "agent") == "too_large"


@pytest.mark.parametrize("kernel", ["on", "off"])
@pytest.mark.parametrize(
    "columns",
    [
        {"info": ["text", raw(1, b"\xfe" * MAX_ROWS), "é".encode() * (127 * 120_000)]},
        {"info": ["text", raw(1, b"\xff" * 120_000 + bytes(MAX_ROWS - 120_000)), b"x" * (255 * 120_000)]},
        {"l7": ["dict", raw(2, bytes(2 * MAX_ROWS)), ["a" * 500 + "😀"] * 65_000]},
        {"z": bytes(31 * MIB)},
        {"z": ["a" * 60_000 + "😀"] * 138},
        {"z": bytes(23 * MIB), "l7": ["dict", raw(2, bytes(2 * MAX_ROWS)), ["a" * 123 + "😀"] * 65_000]},
        {
            "z": bytes(23 * MIB),
            "l7": ["dict", raw(2, bytes(2 * MAX_ROWS)), ["a" * 123 + "😀"] * 65_000],
            "y": [{}] * 190_000,
        },
        {"time": ["delta", bytes(8), ["zigzag", raw(1, bytes(MAX_ROWS - 1))]]},
        {"http2_streamid": ["list", raw(1, b"\x64" * MAX_ROWS), raw(1, bytes(100 * MAX_ROWS))]},
        WIDEST,
        {**WIDEST, "z": bytes(31 * MIB)},
    ],
)
def test_a_body_takes_what_the_limits_allow_whatever_it_claims(
    columns: dict[str, Any], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv(VARIABLE, kernel)
    raw = msgpack.packb(columns)
    assert len(raw) <= MAX_RAW
    message = batch(zstd.compress(raw), len(raw), 1, rows=MAX_ROWS)

    def take() -> None:
        with contextlib.suppress(WrongBatch):
            unpack_body(message)

    assert peak_of(take) <= 3.5 * MAX_RAW


def test_a_tombstone_keeps_its_place_in_the_range_of_a_batch() -> None:
    for seq in (1, 2**64 - 1):
        stone = Tombstone("a", 2**64 - 1, seq, "packets", reason="shed")
        assert decode(encode(stone), "agent") == (stone, 0)
    assert isinstance(read(msgpack.packb({"t": "echo", "id": -1}), "agent"), WrongMessage)
    assert isinstance(read(encode(Echo(2**64 - 1)), "agent"), Echo)
