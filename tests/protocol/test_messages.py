"""What a message may hold: every bound, from both of its sides."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from protocol.errors import WrongMessage
from protocol.ledger import Report
from protocol.limits import (
    MAX_DETAIL,
    MAX_FETCH,
    MAX_FILTER,
    MAX_HELD,
    MAX_NAME,
    MAX_RANGES,
    MAX_RAW,
    MAX_RETRY,
    MAX_ROWS,
    MAX_STRING,
    MAX_WORD,
)
from protocol.messages import (
    MAX_LIVE,
    MESSAGES,
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
    Refuse,
    Reject,
    Status,
    Tombstone,
    Welcome,
)

PLACE = {"agent": "a", "epoch": 1, "seq": 1}
SPAN = {"packets": 1, "flow_only": 0, "first": 0, "last": 0}
VALID: dict[type, dict[str, Any]] = {
    Hello: {"versions": [1], "agent": "a", "node": "n", "epoch": 1, "streams": [1]},
    Welcome: {"version": 1, "session": 1, "store": "s", "positions": {}, "window_batches": 1, "window_bytes": 1},
    Refuse: {"code": "busy"},
    Batch: {**PLACE, **SPAN, "kind": "packets", "rows": 1, "raw_size": 0, "zstd": 0, "body": b""},
    Tombstone: {**PLACE, **SPAN, "kind": "packets", "reason": "shed"},
    Ack: {"epoch": 1, "watermark": 0},
    Reject: {"epoch": 1, "seq": 1, "code": "bad_utf8"},
    Status: {"state": "streaming"},
    Echo: {"id": 1},
    EchoReply: {"id": 1},
    Ask: {"id": 1, "about": "doctor"},
    Answer: {"id": 1},
    Configure: {"id": 1},
    Configured: {"id": 1},
    Fetch: {"id": 1, "part": 1},
    Fetched: {"id": 1, "part": 1},
    Drain: {},
    Bye: {},
}
U64, I63 = 2**64, 2**63
RANGE = [[3, 4]]
DEEP: Any = {"a": [{"b": [None, True, 1.5, "x", -(2**63), U64 - 1]}]}
PLAIN_OK = [{}, DEEP, {"lost": {"shed": 1}}, {str(i): i for i in range(1023)}, Report(lost={"shed": 1}).to_map()]
PLAIN_BAD = [
    {1: 1},
    {b"a": 1},
    {"a": b"x"},
    {"a": {1: 1}},
    {"a": [float("nan")]},
    {"a": float("inf")},
    {"a": (1,)},
    {"a": "x" * (MAX_STRING // 4 + 1)},
    {"x" * (MAX_DETAIL + 1): 1},
    {str(i): i for i in range(1024)},
    {"a": [0] * 5000},
    {"a": [[]] * 5000},
]
SETTINGS_OK = [{}, {"filter": "x" * MAX_FILTER, "l7": ""}, {f"s{n}": "" for n in range(16)}]
SETTINGS_BAD = [
    {"filter": "x" * (MAX_FILTER + 1)}, {"l7": 1}, {"x" * (MAX_WORD + 1): ""}, {f"s{n}": "" for n in range(17)},
]  # fmt: skip
BOUNDS: list[tuple[type, str, list[Any], list[Any]]] = [  # class, field, what it takes, what it refuses
    (
        Hello,
        "agent",
        ["a", "x" * MAX_NAME, "NODE/replay-00ff", "né"],
        ["", "x" * (MAX_NAME + 1), "a\n", "\0", "\x1b[2J"],
    ),
    (Hello, "node", ["", "x" * MAX_NAME], ["x" * (MAX_NAME + 1), "a\r"]),
    (Hello, "epoch", [0, U64 - 1], [-1, U64]),
    (Hello, "versions", [[], [1, 2], [1] * 64], [[True], ["1"], [1.0], [-1], [1] * 65, [[1]]]),
    (Hello, "streams", [[], [0, U64 - 1], [1] * 1024], [[True], [-1], [U64], ["1"], [1] * 1025]),
    (Hello, "stores", [[], ["s"] * 64], [[1], [b"s"], ["s"] * 65, ["s" * (MAX_NAME + 1)]]),
    (Hello, "source", ["live", "replay"], ["", "file"]),
    (Hello, "wall", [0, I63 - 1], [-1, I63]),
    (Hello, "software", ["", "0.1"], ["x" * (MAX_NAME + 1), "a\n"]),
    (Hello, "connection", ["", "c1"], ["x" * (MAX_NAME + 1), "a\n"]),
    (Hello, "answers", [[], ["doctor"] * 64], [[1], ["doctor"] * 65, ["x" * (MAX_WORD + 1)]]),
    (Welcome, "version", [0, 1], [-1, I63]),
    (Welcome, "session", [0, I63 - 1], [-1, I63]),
    (Welcome, "store", ["s"], ["s" * (MAX_NAME + 1), "\n"]),
    (Welcome, "software", ["", "0.1"], ["s" * (MAX_NAME + 1), "\n"]),
    (Welcome, "window_batches", [0, 1], [-1, I63]),
    (Welcome, "window_bytes", [0, 1], [-1, I63]),
    (Welcome, "api_port", [0, 65535], [-1, 65536]),
    (Welcome, "wall", [0], [-1, I63]),
    (
        Welcome,
        "positions",
        [{}, {0: [0, []]}, {U64 - 1: [U64 - 1, RANGE]}, {e: [1, [[3, 3]] * MAX_HELD] for e in range(16)}],
        [
            {-1: [0, []]},
            {"1": [0, []]},
            {True: [0, []]},
            {1: [0]},
            {1: [0, [], 0]},
            {1: 0},
            {1: None},
            {1: [True, []]},
            {1: [-1, []]},
            {1: ["0", []]},
            {1: [0, None]},
            {1: [0, [[2, 1]]]},
            {e: [1, [[3, 3]] * MAX_HELD] for e in range(MAX_RANGES // MAX_HELD + 1)},
        ],
    ),
    (Refuse, "code", ["busy", "from_the_future"], ["x" * (MAX_WORD + 1), "a\n"]),
    (Refuse, "retry_after", [0, 0.5, MAX_RETRY], [-1, -0.1, MAX_RETRY + 1, float("nan"), float("inf")]),
    (Drain, "retry_after", [0, 0.5, MAX_RETRY], [-1, float("nan"), float("-inf")]),
    *(
        (cls, name, good, bad)
        for cls in (Batch, Tombstone)
        for name, good, bad in (
            ("agent", ["a", "x" * MAX_NAME], ["", "x" * (MAX_NAME + 1), "a\n"]),
            ("epoch", [0, U64 - 1], [-1, U64]),
            ("seq", [1, U64 - 1], [0, -1, U64]),
            ("packets", [0, I63 - 1], [-1, I63]),
            ("flow_only", [0, 1], [-1, 2]),
            ("first", [0, -I63], [1, -I63 - 1]),
            ("last", [0, I63 - 1], [-1, I63]),
            ("ledger", PLAIN_OK, PLAIN_BAD),
        )
    ),
    (Batch, "kind", ["packets", "flows", "calls"], ["", "call", "report", "x" * 9999]),
    (Batch, "rows", [1, MAX_ROWS], [0, -1, MAX_ROWS + 1]),
    (Batch, "raw_size", [0, MAX_RAW], [-1, MAX_RAW + 1]),
    (Batch, "zstd", [0, 1], [-1, 2]),
    (Tombstone, "kind", ["packets", "flows", "calls", "report"], ["", "call"]),
    (Tombstone, "reason", ["", "shed", "x" * MAX_WORD], ["two words", "x" * (MAX_WORD + 1), "a\n", "né", '"', "1"]),
    (Tombstone, "final", [0, 1], [-1, 2]),
    *(
        (Ack, "held", good, bad)
        for good, bad in [
            (
                [[], RANGE, [[1, U64 - 1]], [[1, 1]] * MAX_HELD],
                [
                    [[1, 1]] * (MAX_HELD + 1),
                    [[0, 1]],
                    [[2, 1]],
                    [[1, U64]],
                    [[1]],
                    [[1, 2, 3]],
                    [1, 2],
                    [None],
                    [["1", "2"]],
                    [[True, True]],
                    [[1.0, 2.0]],
                    [{1: 2}],
                ],
            )
        ]
    ),
    (Ack, "epoch", [0, U64 - 1], [-1, U64]),
    (Ack, "watermark", [0, U64 - 1], [-1, U64]),
    (Ack, "kept", [[], [1], [1] * MAX_RANGES], [[True], [-1], ["1"], [1] * (MAX_RANGES + 1)]),
    (Ack, "window_batches", [0], [-1, I63]),
    (Ack, "window_bytes", [0], [-1, I63]),
    (Reject, "epoch", [0, U64 - 1], [-1, U64]),
    (Reject, "seq", [0, U64 - 1], [-1, U64]),
    (Reject, "code", ["bad_utf8"], ["x" * (MAX_WORD + 1), "\t"]),
    (Reject, "final", [0, 1], [-1, 2]),
    (Status, "state", ["", "backoff"], ["x" * (MAX_WORD + 1), "\n"]),
    (Status, "level", ["flows"], ["x" * (MAX_WORD + 1), "\n"]),
    (Status, "outbox_bytes", [0, I63 - 1], [-1, I63]),
    (Status, "outbox_batches", [0, I63 - 1], [-1, I63]),
    (Status, "wall", [0, I63 - 1], [-1, I63]),
    (Status, "evidence", PLAIN_OK, PLAIN_BAD),
    (Status, "ledger", PLAIN_OK, PLAIN_BAD),
    (Batch, "behind", PLAIN_OK, PLAIN_BAD),
    (Echo, "id", [0, U64 - 1], [-1, U64]),
    (EchoReply, "id", [0, U64 - 1], [-1, U64]),
    (EchoReply, "wall", [0, I63 - 1], [-1, I63]),
    (Ask, "id", [0, U64 - 1], [-1, U64]),
    (Ask, "about", ["", "doctor"], ["x" * (MAX_WORD + 1), "\n"]),
    (Ask, "within", [0, 0.5, MAX_RETRY], [-1, float("nan"), float("inf")]),
    (Answer, "id", [0, U64 - 1], [-1, U64]),
    (Answer, "body", PLAIN_OK, PLAIN_BAD),
    (Answer, "refused", ["", "busy"], ["x" * (MAX_WORD + 1), "\n"]),
    (Status, "link", PLAIN_OK, PLAIN_BAD),
    (Fetch, "id", [0, U64 - 1], [-1, U64]),
    (Fetch, "part", [0, I63 - 1], [-1, I63]),
    (Fetch, "filter", ["", "é" * MAX_FILTER], ["x" * (MAX_FILTER + 1)]),
    (Fetch, "since", [-I63, I63 - 1], [-I63 - 1, I63]),
    (Fetch, "until", [-I63, I63 - 1], [-I63 - 1, I63]),
    (Fetch, "size", [1, MAX_FETCH], [0, MAX_FETCH + 1]),
    (Fetch, "frames", [0, I63 - 1], [-1, I63]),
    (Fetch, "within", [0, 0.5, MAX_RETRY], [-1, float("nan"), float("inf")]),
    (Fetch, "live", [0, MAX_LIVE], [-1, MAX_LIVE + 1]),
    (Fetched, "id", [0, U64 - 1], [-1, U64]),
    (Fetched, "part", [0, I63 - 1], [-1, I63]),
    (Fetched, "frames", [0, I63 - 1], [-1, I63]),
    (
        Fetched,
        "interfaces",
        [[], [["eth0", 1], ["", 65535]]],
        [[["eth0"]], [["eth0", 65536]], [["x" * (MAX_NAME + 1), 1]], [[1, 1]], [["a", True]], [[]]],
    ),
    (Fetched, "reached", [-I63, I63 - 1], [-I63 - 1, I63]),
    (Fetched, "last", [0, 1], [-1, 2]),
    (
        Fetched,
        "gaps",
        [[], [[-I63, I63 - 1, -1, "gone"]]],
        [[[2, 1, 1, "x"]], [[1, 2, -2, "x"]], [[1, 2, 3]], [[1, 2, 3, "\n"]], [[1, 2, 3, "x" * (MAX_WORD + 1)]]],
    ),
    (Fetched, "kept", [-I63, I63 - 1], [-I63 - 1, I63]),
    (Fetched, "overwritten", [-I63, I63 - 1], [-I63 - 1, I63]),
    (Fetched, "refused", ["", "busy"], ["x" * (MAX_WORD + 1), "\n"]),
    (Configure, "id", [0, U64 - 1], [-1, U64]),
    (Configure, "settings", SETTINGS_OK, SETTINGS_BAD),
    (Configured, "id", [0, U64 - 1], [-1, U64]),
    (Configured, "settings", SETTINGS_OK, SETTINGS_BAD),
    (Configured, "refused", ["", "busy"], ["x" * (MAX_WORD + 1), "\n"]),
]
NAMES = [f"{cls.__name__}.{name}" for cls, name, _, _ in BOUNDS]
FREE = {  # any bytes; cut, see below
    "Batch.body", "Fetched.body", "Refuse.detail", "Reject.detail", "Answer.detail", "Fetched.detail", "Bye.reason",
    "Configured.detail",
}  # fmt: skip


@pytest.mark.parametrize(("cls", "name", "good", "bad"), BOUNDS, ids=NAMES)
def test_a_bound_holds_on_both_sides(cls: type, name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(cls(**{**VALID[cls], name: value}), name) == value
    for value in bad:
        with pytest.raises(WrongMessage) as caught:
            cls(**{**VALID[cls], name: value})
        assert caught.value.code in ("bad_key", "too_large")
        assert len(caught.value.detail) < 200


def test_every_field_of_every_message_has_its_bounds_tested() -> None:
    every = {f"{cls.__name__}.{f.name}" for cls, _ in MESSAGES.values() for f in fields(cls)}
    assert every == {*NAMES, *FREE}


@pytest.mark.parametrize(
    ("cls", "name"),
    [(Bye, "reason"), *((cls, "detail") for cls in (Refuse, Reject, Answer, Fetched, Configured))],
)
def test_a_line_for_people_is_cut(cls: type, name: str) -> None:
    assert getattr(cls(**{**VALID[cls], name: "é" * 5000}), name) == "é" * MAX_DETAIL


@pytest.mark.parametrize("cls", VALID)
def test_a_message_does_not_change(cls: type) -> None:
    message = cls(**VALID[cls])
    with pytest.raises(FrozenInstanceError):
        setattr(message, fields(cls)[0].name, 1)
    assert message == cls(**VALID[cls])


def test_every_class_has_one_type_word() -> None:
    assert {cls for cls, _ in MESSAGES.values()} == set(VALID)
    assert {sender for _, sender in MESSAGES.values()} == {"agent", "hub"}
