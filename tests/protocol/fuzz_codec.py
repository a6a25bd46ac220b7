"""Mutations of valid messages and bodies, by the million; run by hand, not part of the tests.

    PYTHONPATH=. python tests/protocol/fuzz_codec.py [MUTATIONS] [SEED]

Reads every damaged message as a peer does, columns and books included. Anything raised that is no RemoteError is
printed with the seed that makes it again, and the exit code is 1.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import traceback
from collections import Counter

import numpy as np
from strategies import damage, lists_of, to_list

from protocol import groups
from protocol.codec import decode, encode, pack_body, unpack_body, zstd
from protocol.columns import LIST_ITEM, Columns, Dict, empty, maps_of, text_of, texts_of
from protocol.errors import RemoteError
from protocol.ledger import Held, Report, settle
from protocol.messages import (
    MESSAGES,
    Ack,
    Answer,
    Ask,
    Batch,
    Bye,
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
from protocol.schema import FLOWS, PACKETS, TABLES, Table

LEDGER = Report(captured=9, rows=5, open=4, lost={"shed": 3}).to_map()
ROWS = 5


def _columns(table: Table, rng: np.random.Generator) -> Columns:
    columns = {c.name: empty(c, ROWS) for c in table.columns}
    for c in table.columns:
        if c.wire in ("u1", "u2", "u4"):
            columns[c.name] = rng.integers(0, 256, ROWS).astype(f"<{c.wire}")
        elif c.wire in ("u8", "i8"):
            columns[c.name] = (rng.integers(0, 2**62) + rng.integers(0, 200, ROWS)).astype(f"<{c.wire}")
        elif c.wire == "dict":
            columns[c.name] = Dict(rng.integers(0, 2, ROWS).astype("<u4"), ("eth0", "né"))
        elif c.wire == "text":
            columns[c.name] = text_of(["", "GET /", "€uro", "😀", "x" * 30])
        elif c.wire == "list_text":
            columns[c.name] = texts_of([[], ["a"], ["é", ""], [], ["b"]])
        elif c.wire == "map":
            columns[c.name] = maps_of([{}, {"k": "v"}, {"k": "é", "l": ""}, {}, {"l": "w"}])
        elif c.wire in LIST_ITEM:
            columns[c.name] = lists_of(c.wire, [[], [1], [2, 3], [], [4]])
    return columns


def _batch(table: Table, body: bytes, raw_size: int, compressed: int) -> Batch:
    return Batch("a", 7, 1, table.name, ROWS, ROWS, 0, 1, 2, raw_size, compressed, body, LEDGER)


def _seeds() -> list[bytes]:
    rng = np.random.default_rng(1)
    messages: list[Message] = [
        Hello([1], "a", "n", 2**64 - 1, [1, 2], "0.1", "live", 5, ["s"], "c", ["doctor"]),
        Welcome(1, 2, "s", {1: [4, [[6, 7], [9, 9]]], 2**63: [0, []]}, 8, 2**20),
        Refuse("busy", "later", 1.5),
        Tombstone("a", 1, 2, "flows", 3, 1, 4, 5, "shed", 0, LEDGER),
        Ack(1, 2, [[4, 5]], 8, 2**20, [3]),
        Reject(1, 2, "bad_utf8", "info"),
        Status("streaming", "packets", 1, 2, 3, {"rtt": 0.5, "why": ["x", None]}, LEDGER),
        Echo(1),
        EchoReply(1, 2),
        Ask(1, "doctor", 3.0),
        Answer(1, {"rights": ["net_raw"], "disk": {"free": 1}}, "busy", "later"),
        Fetch(1, 2, "tcp", -3, 4, 5, 6, 7.5),
        Fetched(1, 2, 3, b"abc", [["eth0", 1]], 4, 1, [[5, 6, -1, "gone"]], 7, 8, "busy", "later"),
        Drain(2.5),
        Bye("done"),
        *(_batch(t, *pack_body(t.name, _columns(t, rng))) for t in TABLES.values()),
    ]
    return [encode(m) for m in messages]


def _raws() -> list[tuple[Table, bytes]]:
    rng = np.random.default_rng(2)
    out = []
    for table in (PACKETS, FLOWS):
        body, _, compressed = pack_body(table.name, _columns(table, rng))
        out.append((table, zstd.decompress(body) if compressed else body))
    return out


def read(data: bytes) -> str:
    """Reads as either side would, and uses what was read. Returns what became of it."""
    outcome = "refused"
    for sender in ("agent", "hub"):
        try:
            message, _ = decode(data, sender)
            outcome = "message"
            if isinstance(message, (Batch, Tombstone, Status)):
                json.dumps(settle(Report.from_map(message.ledger), Held()).to_map())
                json.dumps(message.ledger, allow_nan=False)
            if isinstance(message, Batch):
                outcome = "batch refused"
                use(message)
                outcome = "batch"
        except RemoteError:
            pass
    return outcome


def use(message: Batch) -> None:
    """Every row of every column."""
    for value in unpack_body(message)[0].values():
        if len(value) != message.rows or (message.rows < 100 and len(to_list(value)) != message.rows):
            raise AssertionError("a column has other rows than its batch")


def main(mutations: int, seed: int) -> int:
    """Run; returns the exit code."""
    groups.MIN_ROWS, groups.MIN_SHARE = 2, 1  # so that these few rows have groups
    seeds, raws, outcomes = _seeds(), _raws(), Counter[str]()
    assert {decode(s, who)[0].__class__ for s in seeds for who in ("agent", "hub") if _is_from(s, who)} == {
        cls for cls, _ in MESSAGES.values()
    }
    started = time.monotonic()
    for number in range(mutations):
        rng = random.Random(seed + number)
        try:
            if number % 3:  # the columns by themselves: a changed byte rarely survives compression
                table, raw = rng.choice(raws)
                broken = damage(raw, rng)
                outcomes[read(encode(_batch(table, broken, len(broken), 0)))] += 1
            else:
                outcomes[read(damage(rng.choice(seeds), rng))] += 1
        except Exception:
            print(f"seed {seed + number}, number {number}:", traceback.format_exc(), sep="\n")
            return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{mutations} mutations in {time.monotonic() - started:.0f} s, peak {peak} MiB: {dict(outcomes)}")
    return 0


def _is_from(data: bytes, sender: str) -> bool:
    try:
        decode(data, sender)
    except RemoteError:
        return False
    return True


if __name__ == "__main__":
    arguments = [int(a) for a in sys.argv[1:]]
    sys.exit(main(*(arguments + [100_000, 0][len(arguments) :])))
