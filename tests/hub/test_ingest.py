"""The agents' listener on real sockets: what agents may say, and what becomes of those who lie."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from procs import Hub, ending
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocol.codec import decode, encode, pack_body
from protocol.columns import empty, text_of
from protocol.messages import Ack, Batch, Bye, Echo, EchoReply, Hello, Refuse, Reject, Status, Tombstone, Welcome
from protocol.schema import TABLES

EPOCH = 0xABCDEF


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("ingest"))
    with ending(hub):
        yield hub.ready()


def name() -> str:
    return f"test-{secrets.token_hex(4)}"


def rows(agent: str, seq: int, count: int = 3, kind: str = "packets", epoch: int = EPOCH) -> Batch:
    columns = {c.name: empty(c, count) for c in TABLES[kind].columns}
    if kind == "packets":
        columns["frame_number"] = np.arange(count, dtype="<u8") + (seq - 1) * count + 1
        columns["info"] = text_of([f"row {i}" for i in range(count)])
    body, size, zstd = pack_body(kind, columns)
    ledger = {"captured": seq * count, "rows": seq * count}
    return Batch(agent, epoch, seq, kind, count, count, 0, 0, 1, size, zstd, body, ledger)


@asynccontextmanager
async def linked(hub: Hub, agent: str, epoch: int = EPOCH) -> AsyncIterator[tuple[ClientConnection, Welcome]]:
    async with connect(hub.ws, compression=None, ping_interval=None, proxy=None) as ws:
        await ws.send(encode(Hello([1], agent, "node", epoch, [epoch], connection="c1")))
        welcome = await hear(ws)
        assert isinstance(welcome, Welcome)
        yield ws, welcome


async def hear(ws: ClientConnection, timeout: float = 10.0) -> Any:
    return decode(await asyncio.wait_for(ws.recv(), timeout), "hub")[0]


async def hear_ack(ws: ClientConnection, watermark: int) -> Ack:
    while True:
        message = await hear(ws)
        if isinstance(message, Ack) and message.watermark >= watermark:
            return message


async def refusal(ws: ClientConnection) -> Refuse:
    while True:
        message = await hear(ws)
        if isinstance(message, Refuse):
            return message


def stored(hub: Hub, agent: str) -> int:
    return len(hub.rows("nodetap.agent", "==", f'"{agent}"'))


def test_a_batch_is_acknowledged_stored_and_found(hub: Hub) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, welcome):
            assert welcome.positions == {EPOCH: [0, []]}
            await ws.send(encode(rows(agent, 1)))
            ack = await hear_ack(ws, 1)
            assert (ack.epoch, ack.watermark, ack.held) == (EPOCH, 1, [])
            await ws.send(encode(Bye("done")))

    asyncio.run(play())
    assert stored(hub, agent) == 3


def test_out_of_order_duplicates_and_reconnects_store_each_batch_once(hub: Hub) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            for seq in (1, 3, 3, 1, 5):
                await ws.send(encode(rows(agent, seq)))
            while (ack := await hear_ack(ws, 1)).held != [[3, 3], [5, 5]]:
                pass
            assert ack.watermark == 1
        async with linked(hub, agent) as (ws, welcome):
            assert welcome.positions == {EPOCH: [1, [[3, 3], [5, 5]]]}
            for seq in (1, 2, 3, 4, 5):
                await ws.send(encode(rows(agent, seq)))
            await hear_ack(ws, 5)

    asyncio.run(play())
    assert stored(hub, agent) == 15
    books = next(b for b in hub.ledger()["agents"] if b["agent"] == agent)
    assert (books["captured"], books["row"], books["pending"], books["balanced"]) == (15, 15, 0, True)
    assert not books["complete"]  # it never said its last word


def test_a_tombstone_moves_the_watermark_and_is_counted(hub: Hub) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            await ws.send(encode(rows(agent, 1)))
            await ws.send(encode(Tombstone(agent, EPOCH, 2, "packets", 3, reason="shed")))
            await ws.send(encode(rows(agent, 3)))
            await hear_ack(ws, 3)
            await ws.send(encode(Tombstone(agent, EPOCH, 1, "packets", 3, reason="in_doubt")))
            ack = await hear(ws)
            assert ack.kept == [1]  # it is stored after all

    asyncio.run(play())
    books = next(b for b in hub.ledger()["agents"] if b["agent"] == agent)
    assert (books["row"], books["lost"], books["balanced"]) == (6, {"shed": 3}, True)


def test_an_echo_comes_back_through_the_queue(hub: Hub) -> None:
    async def play() -> None:
        async with linked(hub, name()) as (ws, _):
            await ws.send(encode(Echo(7)))
            reply = await hear(ws)
            assert isinstance(reply, EchoReply)
            assert reply.id == 7

    asyncio.run(play())


def test_the_newest_connection_of_a_name_wins(hub: Hub) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (old, first), linked(hub, agent, EPOCH + 1) as (_, second):
            assert second.session > first.session
            refused = await refusal(old)
            assert refused.code == "superseded"

    asyncio.run(play())


LIES: dict[str, tuple[Any, str]] = {
    "not msgpack": (b"\xc1garbage", "bad_msgpack"),
    "a text frame": ("hello", "bad_msgpack"),
    "an array": (msgpack.packb([1, 2]), "bad_msgpack"),
    "an unknown type": (msgpack.packb({"t": "sing"}), "unknown_type"),
    "a hub's message": (encode(EchoReply(1)), "unknown_type"),
    "a batch that is no batch": (msgpack.packb({"t": "batch", "rows": "many"}), "bad_key"),
    "a second hello": (encode(Hello([1], "x", "y", 1, [1])), "illegal_moment"),
    "a claim of 1 GiB": (b"\x81\xa1t\xc6" + struct.pack(">I", 1 << 30), "bad_msgpack"),
    "a map of 4 Gi keys": (b"\xdf\xff\xff\xff\xff", "too_large"),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_lies_get_a_coded_refusal_and_the_connection_ends(hub: Hub, lie: str) -> None:
    data, code = LIES[lie]
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            await ws.send(data)
            assert (await refusal(ws)).code == code
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(ws.recv(), 5)

    asyncio.run(play())
    assert stored(hub, agent) == 0


def _cut(batch: Batch) -> Batch:
    return replace(batch, body=batch.body[: len(batch.body) // 2])


def _column(batch: Batch, column: str, value: Any) -> Batch:
    raw = msgpack.packb({column: value})
    return replace(batch, body=raw, raw_size=len(raw), zstd=0)


BAD_BATCHES: dict[str, Any] = {
    "cut in half": _cut,
    "not zstd": lambda b: replace(b, body=b"\x00" * 50, zstd=1),
    "claims too little": lambda b: replace(b, raw_size=max(0, b.raw_size - 1)),
    "claims too much": lambda b: replace(b, raw_size=b.raw_size + 1),
    "more rows than it has": lambda b: replace(b, rows=100_000, packets=100_000),
    "a column of the wrong length": lambda b: _column(b, "time", ["raw", 8, b"1234567"]),
    "a column of the wrong type": lambda b: _column(b, "time", "soon"),
    "an unknown encoding": lambda b: _column(b, "time", ["magic", b""]),
    "text that is no UTF-8": lambda b: _column(b, "info", ["text", ["raw", 1, b"\1\1\1"], b"\xff\xfe\xfd"]),
    "a code beyond the dictionary": lambda b: _column(b, "iface", ["dict", ["raw", 1, b"\x00\x01\x09"], ["a", "b"]]),
    "lengths that overflow": lambda b: _column(b, "info", ["text", ["raw", 4, b"\xff" * 12], b"x"]),
}


@pytest.mark.parametrize("lie", list(BAD_BATCHES))
def test_bad_batches_are_refused_twice_then_buried_and_the_next_is_stored(hub: Hub, lie: str) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            bad = BAD_BATCHES[lie](rows(agent, 1))
            for final in (0, 1):
                await ws.send(encode(bad))
                reject = await hear(ws)
                assert isinstance(reject, Reject)
                assert (reject.seq, reject.final) == (1, final)
            ledger = {"captured": 6, "rows": 6}
            await ws.send(encode(Tombstone(agent, EPOCH, 1, "packets", 3, reason="quarantined")))
            await ws.send(encode(replace(rows(agent, 2), ledger=ledger)))
            await hear_ack(ws, 2)

    asyncio.run(play())
    assert stored(hub, agent) == 3
    books = next(b for b in hub.ledger()["agents"] if b["agent"] == agent)
    assert (books["row"], books["quarantined"], books["balanced"]) == (3, 3, True)


def test_a_claim_above_the_limit_ends_the_connection_and_stores_nothing(hub: Hub) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            claim = b"\x82\xff" + struct.pack(">Q", (16 << 20) + 1) + b"mask"  # RFC 6455, 5.2: a header, no payload
            ws.transport.write(claim)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(ws.recv(), 10)

    asyncio.run(play())
    assert stored(hub, agent) == 0


def test_a_batch_in_another_name_is_refused(hub: Hub) -> None:
    async def play() -> None:
        async with linked(hub, name()) as (ws, _):
            await ws.send(encode(rows("somebody-else", 1)))
            assert (await refusal(ws)).code == "wrong_agent"

    asyncio.run(play())
    assert stored(hub, "somebody-else") == 0


def test_an_unknown_version_is_refused(hub: Hub) -> None:
    async def play() -> None:
        async with connect(hub.ws, compression=None, proxy=None) as ws:
            await ws.send(encode(Hello([99], name(), "node", 1, [1])))
            assert (await refusal(ws)).code == "unknown_version"

    asyncio.run(play())


def test_more_than_the_window_is_refused(hub: Hub) -> None:
    async def play() -> None:
        agent = name()
        async with linked(hub, agent) as (ws, welcome):
            for seq in range(1, 4 * welcome.window_batches):
                await ws.send(encode(rows(agent, seq, 1)))
            message = await hear(ws)
            while not isinstance(message, Refuse | Ack):
                message = await hear(ws)
            assert isinstance(message, Ack) or message.code == "out_of_window"

    asyncio.run(play())


def test_unknown_columns_are_dropped_and_counted(hub: Hub) -> None:
    agent = name()
    before = hub.metric("nodetap_hub_unknown_columns_total")

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            raw = msgpack.packb({"frame_number": ["raw", 1, b"\1\2\3"], "mood": ["raw", 1, b"\1\1\1"]})
            await ws.send(encode(replace(rows(agent, 1), body=raw, raw_size=len(raw), zstd=0)))
            await hear_ack(ws, 1)

    asyncio.run(play())
    assert stored(hub, agent) == 3
    assert hub.metric("nodetap_hub_unknown_columns_total") == before + 1


def test_a_status_is_shown(hub: Hub) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            await ws.send(encode(Status("draining", "flows", 5, 1)))
            await ws.send(encode(Echo(1)))
            await hear(ws)
            seen = await asyncio.to_thread(hub.agents)
            assert seen[agent]["state"] == "draining"
            assert seen[agent]["verdict"] == "degraded"
            assert seen[agent]["epoch"] == f"{EPOCH:016x}"

    asyncio.run(play())


def test_a_wrong_token_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("agent sesame\nread poppy\nadmin lotus")
    hub = Hub(tmp_path, "--token-file", str(token))
    with ending(hub):
        hub.ready()

        async def play(given: str | None) -> int:
            headers = {"Authorization": f"Bearer {given}"} if given else None
            try:
                async with connect(hub.ws, additional_headers=headers, proxy=None):
                    return 101
            except InvalidStatus as error:
                return error.response.status_code

        given = (None, "wrong", "poppy", "sesame", "lotus")
        assert [asyncio.run(play(token)) for token in given] == [401, 401, 401, 101, 101]
        refused = [event for event in hub.events if event.get("event") == "agent refused"]
        assert [(event["peer"].partition(":")[0], event["times"]) for event in refused] == [
            ("127.0.0.1", 1)
        ]  # a minute
        (tmp_path / "mine").write_text("poppy")
        said = hub.cli("--token-file", str(tmp_path / "mine"), "doctor", "-o", "wide", check=False).stdout
        [found] = [line for line in said.splitlines() if "refused" in line]
        assert "127.0.0.1: the role read sends nothing (3 times, " in found


def test_one_that_does_not_read_is_cut_off_and_that_is_said_once(hub: Hub) -> None:
    agent = name()

    async def play() -> None:
        async with linked(hub, agent) as (ws, _):
            ws.transport.pause_reading()
            again = encode(Tombstone(agent, EPOCH, 1, "report"))
            while True:
                await ws.send(again)

    with pytest.raises(ConnectionClosed):
        asyncio.run(play())
    lines = [line for line in hub.events if line.get("agent") == agent and line["event"] == "agent does not read"]
    assert len(lines) == 1
