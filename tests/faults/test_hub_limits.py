"""A hub under pressure: a full disk, a writer that hangs, windows that shrink, agents that ask too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import record
from numbered import write_pcap
from procs import Agent, Hub, ending, free_port, status_of, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from protocol.codec import decode, encode
from protocol.messages import Ack, Batch, Bye, Echo, Hello, Refuse, Welcome

HANG = {"NODETAP_FAILPOINT": "ingest_hang"}
ROWS = 'nodetap_hub_rows_stored_total{kind="packets"}'


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 16))


@pytest.mark.root
def test_a_full_disk_holds_everything_up_and_loses_nothing(tmp_path: Path) -> None:
    """Scenario 6, a store that takes nothing at all for a while: its disk is full."""
    capture = write_pcap(tmp_path / "numbered.pcap", 400_000)
    with small_disk(tmp_path / "store", 240):
        hub = Hub(tmp_path).ready()
        agent = Agent(tmp_path, "replay", str(capture), "--hub", hub.ws, "--node", "n1", "--speed", "100000",
                      "--stall-timeout", "2", "--backoff-max", "0.5", "--connect-timeout", "60")  # fmt: skip
        with ending(hub, agent):
            until("rows", lambda: hub.metric(ROWS) > 0, 60)
            fill(tmp_path / "store" / "filler")
            until("the hub says so", lambda: status_of(f"{hub.api}/readyz") == 503, 10)
            assert hub.metric("nodetap_hub_store_failing") == 1
            until("the agent gave up a link", lambda: any(e.get("event") == "link stalled" for e in agent.events))
            assert hub.metric("nodetap_hub_writer_stuck_seconds") < 2.0  # tries are signs of life
            assert hub.agents()  # questions are still answered
            assert "cannot write to" in hub.ledger()["not_storing"]
            assert "stores nothing now" in hub.cli("ledger").stdout
            (tmp_path / "store" / "filler").unlink()
            assert agent.wait(60) == 0, agent.text[-1000:]
            assert status_of(f"{hub.api}/readyz") == 200
            assert hub.metric("nodetap_hub_store_failing") == 0
            numbers = [row["frame.number"] for row in hub.rows("--fields", "frame.number")]
            assert numbers == list(range(1, 400_001))
            ledger = hub.ledger()
            assert ledger["balanced"]
            assert ledger["complete"]
            assert "not_storing" not in ledger
            failures = [e for e in hub.events if e.get("event") == "cannot store; trying again"]
            assert 1 <= len(failures) <= 10
            assert sum(e.get("event") == "can store again" for e in hub.events) >= 1
    record(
        "6", "the disk of the store is full, then it has room again",
        "`/readyz` 503, questions are answered; afterwards all rows are there, once, and the ledger is complete",
        f"{len(numbers)} of 400000 rows, said in {len(failures)} log lines",
    )  # fmt: skip


def test_a_hub_out_of_memory_stores_later_and_refuses_nothing(tmp_path: Path) -> None:
    """Scenario 3: that there is no memory for a batch is not the batch's fault."""
    short = tmp_path / "short"
    short.touch()
    hub = Hub(tmp_path, env={"NODETAP_FAILPOINT": f"no_memory={short}"}).ready()
    agent = Agent(tmp_path, "replay", str(write_pcap(tmp_path / "some.pcap", 50_000)), "--hub", hub.ws)
    with ending(hub, agent):
        until("it cannot store", lambda: "out of memory" in hub.text)
        assert status_of(f"{hub.api}/readyz") == 503
        short.unlink()
        assert agent.wait(60) == 0, agent.text
        ledger = hub.ledger()
        assert (ledger["balanced"], ledger["complete"], ledger["agents"][0]["row"]) == (True, True, 50_000)
        assert "batch refused" not in hub.text + agent.text
        assert "can store again" in hub.text


async def join(hub: Hub, agent: str) -> tuple[ClientConnection, Welcome]:
    socket = await connect(hub.ws, compression=None, ping_interval=None, proxy=None, max_size=16 << 20)
    await socket.send(encode(Hello([1], agent, "node", 7, [7])))
    welcome = decode(await asyncio.wait_for(socket.recv(), 10), "hub")[0]
    assert isinstance(welcome, Welcome)
    return socket, welcome


def bulky(agent: str, seq: int) -> Batch:
    return Batch(agent, 7, seq, "packets", 1, 1, 0, 0, 0, 4 << 20, 0, os.urandom(4 << 20))


def test_an_agent_is_held_to_the_window_it_was_granted_not_to_the_one_it_does_not_know_yet(tmp_path: Path) -> None:
    """Scenario 3a, what is on its way while others come: nobody is refused for a window that became smaller."""
    hub = Hub(tmp_path, env=HANG).ready()

    async def play() -> None:
        first, welcome = await join(hub, "first")
        assert welcome.window_bytes == 64 << 20
        for seq in range(1, 11):
            await first.send(encode(bulky("first", seq)))
        others = [(await join(hub, f"other{n}"))[0] for n in range(30)]
        await first.send(encode(bulky("first", 11)))
        await first.send(encode(bulky("first", 12)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first.recv(), 1.0)  # no refusal, no close
        for socket in (first, *others):
            socket.transport.abort()

    with ending(hub):
        asyncio.run(play())
        assert "out_of_window" not in hub.text


def test_who_comes_and_goes_cannot_fill_a_hub_that_stores_nothing(tmp_path: Path) -> None:
    """Scenario 3a with an agent that begins anew again and again: what it left in the queue is bounded, too."""
    small = "import hub.ingest.budget as budget; budget.BUDGET_BYTES = budget.MAX_MESSAGE = 1 << 20"
    hub = Hub(tmp_path, env=HANG, first=small).ready()

    async def play() -> int:
        """After how many connections the hub takes no more."""
        data = os.urandom(60_000)
        for number in range(100):
            try:
                socket, _ = await join(hub, "restless")
            except InvalidStatus:
                return number
            for seq in range(4 * number + 1, 4 * number + 5):
                await socket.send(encode(Batch("restless", 7, seq, "packets", 1, 1, 0, 0, 0, len(data), 0, data)))
            await asyncio.wait({asyncio.ensure_future(await socket.ping())}, timeout=0.2)  # it was read, or is not
            socket.transport.abort()
        return 100

    with ending(hub):
        assert 8 < asyncio.run(play()) < 40
        assert hub.metric("nodetap_hub_held_bytes") < 4 << 20


def test_questions_without_end_are_refused(tmp_path: Path) -> None:
    """Scenario 3a with an agent that asks and asks: the queue of a hub that hangs is bounded for echoes, too."""
    hub = Hub(tmp_path, env=HANG).ready()

    async def play() -> None:
        socket, _ = await join(hub, "curious")
        for number in range(100):
            await socket.send(encode(Echo(number)))
        refusal = decode(await asyncio.wait_for(socket.recv(), 10), "hub")[0]
        assert isinstance(refusal, Refuse)
        assert refusal.code == "out_of_window"

    with ending(hub):
        asyncio.run(play())
        assert hub.metric("nodetap_hub_queued_works") < 100


def test_a_hub_that_takes_and_stores_nothing_is_found_by_progress(tmp_path: Path) -> None:
    """Scenario 3a while streaming: pings are answered, batches are not; after a restart nothing is missing."""
    capture = write_pcap(tmp_path / "numbered.pcap", 100_000)
    hub = Hub(tmp_path, env=HANG).ready()
    agent = Agent(tmp_path, "replay", str(capture), "--hub", hub.ws, "--node", "n1",
                  "--stall-timeout", "3", "--backoff-max", "0.5")  # fmt: skip
    with ending(hub, agent):
        stall = until("a stall", lambda: [e for e in agent.events if e.get("event") == "link stalled"])[0]
        assert stall["detector"] == "progress"
        assert stall["pong_age_s"] < 2.0
        assert stall["waiting_s"] <= 3 + 2 * 0.5 + 0.2
        hub.kill()
        hub = hub.again().ready()
        with ending(hub):
            assert agent.wait(30) == 0, agent.text[-1000:]
            assert [r["frame.number"] for r in hub.rows("--fields", "frame.number")] == list(range(1, 100_001))
            assert hub.ledger()["balanced"]
    record(
        "3a", "a hub takes batches and stores none, deadline D 3 s, watchdog tick t 0.5 s",
        "found by progress within D + 2t although a pong is younger than 2 s; nothing lost after a restart",
        f"found after {stall['waiting_s']:.1f} s, pong {stall['pong_age_s']:.1f} s old, 100000 of 100000 rows",
    )  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("fault", ["ingest_hang", "SIGSTOP"])
def test_an_idle_link_to_a_hub_that_does_not_work_is_found(tmp_path: Path, fault: str) -> None:
    """Scenarios 2 and 3a without traffic: the echo goes through the queue that hangs, the ping does not."""
    hub = Hub(tmp_path, env=HANG if fault == "ingest_hang" else None).ready()
    agent = Agent(
        tmp_path, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {free_port()}", "--node", "n1",
        "--stall-timeout", "3", "--echo-interval", "1", "--backoff-max", "1",
    )  # fmt: skip
    with ending(hub, agent):
        until("streaming", lambda: agent.state == "streaming")
        if fault == "SIGSTOP":
            hub.send(signal.SIGSTOP)
        began = time.monotonic()
        stall = until("a stall", lambda: [e for e in agent.events if e.get("event") == "link stalled"], 1 + 3 + 2)[0]
        found = time.monotonic() - began
        assert stall["detector"] == ("echo" if fault == "ingest_hang" else stall["detector"])
        assert stall["detector"] in ("echo", "ping")
        if fault == "SIGSTOP":
            hub.send(signal.SIGCONT)
            until("streaming again", lambda: agent.state == "streaming", 1 + 5)
            until("one session", lambda: hub.metric("nodetap_hub_sessions") == 1, 40)
            agent.send(signal.SIGTERM)
            assert agent.wait(20) == 0
    record(
        "2" if fault == "SIGSTOP" else "3a", f"an idle link to a hub with {fault}, echo every 1 s, deadline D 3 s",
        "found by the echo or the ping within the echo interval and D; then one session",
        f"found by {stall['detector']}, {found:.1f} s after the agent streamed or the hub was stopped",
    )  # fmt: skip


def test_acks_and_bye_still_work_on_a_healthy_hub(tmp_path: Path) -> None:
    """What the limits must not touch: one echo at a time, for long."""
    hub = Hub(tmp_path).ready()

    async def play() -> None:
        socket, _ = await join(hub, "patient")
        for number in range(40):
            await socket.send(encode(Echo(number)))
            answer = decode(await asyncio.wait_for(socket.recv(), 10), "hub")[0]
            assert not isinstance(answer, Refuse | Ack)
        await socket.send(encode(Bye("done")))

    with ending(hub):
        asyncio.run(play())
