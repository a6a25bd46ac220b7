"""Hubs that misbehave, on real sockets: what the agent does, and that it ends with the right words and code."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from figures import record
from numbered import write_pcap
from procs import Agent, Process, ending, environment, free_port, program, until
from scripted import Line, scripted

from protocol.messages import Ack, Batch, Drain, Refuse, Tombstone

FULL = os.environ.get("NODETAP_FAULTS") == "full"


def replay(folder: Path, capture: Path, hub: str, *args: str, name: str = "agent") -> Agent:
    return Agent(folder, "replay", str(capture), "--hub", hub, "--node", name, *args, name=name)


def events(process: Process, name: str) -> list[dict]:
    return [e for e in process.events if e.get("event") == name]


def closes(line: Line) -> None:
    """Nothing, not even a word."""


def closes_once_spoken_to(line: Line) -> None:
    line.hear()


def closes_after_the_welcome(line: Line) -> None:
    line.welcome()
    line.take()


def test_a_hub_that_accepts_and_closes_is_not_hammered(tmp_path: Path) -> None:
    """Scenario 20: whatever it does before it closes. Scaled: the first ten seconds, which are the densest."""
    capture = write_pcap(tmp_path / "few.pcap", 100)
    seconds = 70 if FULL else 10
    with ExitStack() as stack:
        hubs = [
            stack.enter_context(scripted(play)) for play in (closes, closes_once_spoken_to, closes_after_the_welcome)
        ]
        agents = [
            replay(tmp_path, capture, hub.ws, "--connect-timeout", str(seconds), name=f"a{n}")
            for n, hub in enumerate(hubs)
        ]
        stack.enter_context(ending(*agents))
        for agent in agents:
            assert agent.wait(seconds + 30) == 3
            assert "100 of the 100 packets" in agent.text
        minutes = [most_within(60.0, hub.handshakes) for hub in hubs]
    assert min(minutes) >= 3
    assert max(minutes) <= 20
    record("20", "a hub that closes at once, once spoken to, after the first batch", "at most 20 handshakes a minute",
           f"{', '.join(map(str, minutes))} in {'a minute' if FULL else 'the first ten seconds'}")  # fmt: skip


def most_within(seconds: float, times: list[float]) -> int:
    """The most of them that lie within so many seconds."""
    return max(sum(first <= t < first + seconds for t in times) for first in times)


def test_a_hub_that_welcomes_and_never_acknowledges(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "some.pcap", 1_000_000)

    def play(line: Line) -> None:
        line.welcome()
        while True:
            line.hear()

    with scripted(play) as hub:
        agent = replay(
            tmp_path, capture, hub.ws, "--connect-timeout", "6", "--stall-timeout", "1", "--buffer-bytes", "1048576"
        )
        with ending(agent):
            assert agent.wait(30) == 3
        assert len(events(agent, "link stalled")) >= 2
        assert {e["detector"] for e in events(agent, "link stalled")} == {"progress"}
    check_left(agent)


def check_left(agent: Agent) -> None:
    """Nothing was acknowledged: what is left is everything that was read."""
    words = agent.text.strip().splitlines()[-1].split()
    left, captured = int(words[words.index("with") + 1]), int(words[words.index("the") + 1])
    assert left == captured > 30_000, agent.text[-300:]


def test_a_hub_that_never_reads(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "some.pcap", 1_000_000)

    over = threading.Event()

    def play(line: Line) -> None:
        line.welcome(window=(64, 64 << 20))
        over.wait(20)

    with scripted(play) as hub:
        agent = replay(tmp_path, capture, hub.ws, "--connect-timeout", "4", "--stall-timeout", "1")
        with ending(agent):
            assert agent.wait(20) == 3
        over.set()
        assert {e["detector"] for e in events(agent, "link stalled")} == {"progress"}


def test_a_closed_connection_is_noticed_at_once(tmp_path: Path) -> None:
    """A hub that drains and closes in good order: the agent goes on elsewhere within a moment."""
    capture = write_pcap(tmp_path / "few.pcap", 100)
    closed: list[float] = []

    def play(line: Line) -> None:
        line.welcome()
        if line.number == 1:
            line.take()
            line.say(Drain(0.0))
            time.sleep(0.3)  # past the first ping: nothing is under way but what the close must wake
            line.socket.close(1001, "draining")
            closed.append(time.monotonic())
            return
        line.acknowledge_all()

    with scripted(play) as hub:
        agent = replay(tmp_path, capture, hub.ws)
        with ending(agent):
            until("the end is in the log", lambda: events(agent, "connection ended"))
            assert agent.wait(20) == 0
        assert hub.handshakes[1] - closed[0] < 0.6  # the first wait is at most a quarter of a second
        assert "1001" in events(agent, "connection ended")[0]["reason"]


def test_what_is_in_doubt_elsewhere_is_given_up_also_when_nothing_else_is_sent(tmp_path: Path) -> None:
    """A batch that only the first store may hold is a tombstone in the second, after the end of the file too."""
    capture = write_pcap(tmp_path / "few.pcap", 100)
    heard: list[Batch | Tombstone] = []

    def play(line: Line) -> None:
        line.welcome(store=f"store {min(line.number, 2)}")
        if line.number == 1:
            line.take()
            return
        while True:
            heard.append(line.take())
            line.say(Ack(heard[-1].epoch, 0, [[heard[-1].seq, heard[-1].seq]], 64, 1 << 20))

    with scripted(play) as hub:
        soon = "import agent.uplink.connection as c; c.DOUBT_PATIENCE = 1.0"
        agent = Agent(tmp_path, "replay", str(capture), "--hub", hub.ws, first=soon)
        with ending(agent):
            assert agent.wait(30) == 0, agent.text
    assert {m.reason for m in heard if isinstance(m, Tombstone) and m.kind != "report"} == {"in_doubt"}


@pytest.mark.parametrize(
    ("drains", "said"), [(False, "stalled (progress)"), (True, "the hub said that it goes, and stays")]
)
def test_a_hub_that_answers_and_takes_nothing_is_left(tmp_path: Path, drains: bool, said: str) -> None:
    """Scenario 3a: pings and echoes are answered; it grants no window, or says that it drains and does not go."""
    capture = write_pcap(tmp_path / "few.pcap", 100)

    def play(line: Line) -> None:
        if line.number > 1:
            line.welcome()
            line.acknowledge_all()
        line.welcome(window=(0, 0))
        if drains:
            line.say(Drain())
        while True:
            line.take()

    with scripted(play) as hub:
        soon = "import agent.uplink.connection as c; c.DRAIN_PATIENCE = 1.0"
        agent = Agent(tmp_path, "replay", str(capture), "--hub", hub.ws, "--stall-timeout", "2", first=soon)
        with ending(agent):
            assert agent.wait(30) == 0, agent.text
    assert said in " ".join(str(e.get("reason")) for e in events(agent, "reconnecting"))


@pytest.mark.parametrize("how", ["refused", "too big for a proxy"])
def test_a_batch_that_the_hub_cannot_read_is_given_up_and_no_other(tmp_path: Path, how: str) -> None:
    """Who cannot read a message cannot say which batch it was: it may not hold up those behind it for ever."""
    capture = write_pcap(tmp_path / "some.pcap", 200_000)
    kept: dict[int, Batch | Tombstone] = {}
    bad: list[int] = []

    def play(line: Line) -> None:
        line.welcome(held=kept)
        while True:
            message = line.take()
            if not bad and len(kept) == 1 and message.kind == "packets":
                bad.append(message.seq)
            if message.seq in bad and isinstance(message, Batch):
                if how == "refused":
                    line.say(Refuse("bad_key", "a key is missing", 0.0))
                line.socket.close(1009, "too big")
                return
            kept[message.seq] = message
            line.say(Ack(message.epoch, 0, [[message.seq, message.seq]], 64, 16 << 20))

    with scripted(play) as hub:
        agent = replay(tmp_path, capture, hub.ws, "--backoff-max", "0.5")
        with ending(agent):
            assert agent.wait(60) == 0, agent.text
    given_up = {seq: m.reason for seq, m in kept.items() if isinstance(m, Tombstone) and m.kind != "report"}
    assert given_up == {bad[0]: "quarantined"}
    assert sum(m.packets for m in kept.values() if m.kind == "packets") == 200_000
    assert "no hub can read it" in agent.text


def test_the_wait_of_the_superseded_holds_however_the_words_arrive(tmp_path: Path) -> None:
    """The refusal may be lost in the close that follows it; the close says the same."""
    capture = write_pcap(tmp_path / "few.pcap", 100)

    def play(line: Line) -> None:
        line.welcome()
        if line.number % 2:
            line.say(Refuse("superseded", "a newer connection of the same name took over"))
        line.socket.close(1008, "superseded")

    for first in (1, 2):
        with scripted(play) as hub:
            if first == 2:
                hub.handshakes.append(0.0)
            agent = replay(tmp_path, capture, hub.ws, "--speed", "10", name=f"a{first}")
            with ending(agent):
                wait = until("it waits", lambda agent=agent: events(agent, "reconnecting"), 10)
                assert wait[0]["wait_s"] >= 30.0, wait


def test_a_pause_of_the_input_is_not_a_hub_without_progress(tmp_path: Path) -> None:
    data = write_pcap(tmp_path / "few.pcap", 1000).read_bytes()
    with scripted(lambda line: (line.welcome(), line.acknowledge_all())) as hub:  # type: ignore[func-returns-value]
        command = program("agent.cli", "replay", "-", "--hub", hub.ws, "--connect-timeout", "1", "--node", "n1")
        agent = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        try:
            assert agent.stdin is not None
            assert agent.stderr is not None
            agent.stdin.write(data[: 24 + 76 * 100])
            agent.stdin.flush()
            until("connected", lambda: hub.handshakes)
            with pytest.raises(subprocess.TimeoutExpired):
                agent.wait(2.5)  # the pause is the fault: more than twice the timeout
            agent.stdin.write(data[24 + 76 * 100 :])
            agent.stdin.close()
            assert agent.wait(20) == 0
            said = agent.stderr.read()
            assert b"1000 packets stored" in said
            assert b"stalled" not in said
        finally:
            agent.kill()
            agent.wait(10)
            agent.stderr.close()
    record("9", "the input of a replay pauses", "0 stalls", "0 stalls in more than twice the timeout, all stored")


def test_a_slow_hub_that_gets_on_is_not_given_up(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "some.pcap", 200_000)
    with scripted(lambda line: (line.welcome(), line.acknowledge_all(0.4))) as hub:  # type: ignore[func-returns-value]
        agent = replay(tmp_path, capture, hub.ws, "--connect-timeout", "1", "--stall-timeout", "1")
        with ending(agent):
            assert agent.wait(40) == 0, agent.text[-1000:]
        assert len(hub.handshakes) == 1


def test_the_count_left_is_exact_whatever_did_not_fit_the_outbox(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "some.pcap", 1_000_000)
    agent = replay(
        tmp_path, capture, f"ws://127.0.0.1:{free_port()}", "--connect-timeout", "1.5", "--buffer-bytes", "1048576"
    )
    with ending(agent):
        assert agent.wait(20) == 3
    check_left(agent)


def test_the_first_signal_after_the_files_end_does_not_throw_away(tmp_path: Path) -> None:
    """The end of the file is no signal: SIGTERM while the rest is acknowledged lets that finish."""
    capture = write_pcap(tmp_path / "few.pcap", 100)
    go = threading.Event()

    def play(line: Line) -> None:
        line.welcome()
        first = line.take()
        go.wait(10)
        line.say(Ack(first.epoch, 0, [[first.seq, first.seq]], 64, 1 << 20))
        line.acknowledge_all()

    with scripted(play) as hub:
        agent = replay(tmp_path, capture, hub.ws)
        with ending(agent):
            until("the file has ended", lambda: agent.state == "draining")
            agent.send(signal.SIGTERM)
            until("told to stop", lambda: events(agent, "told to stop"))
            go.set()
            assert agent.wait(10) == 0, agent.text[-500:]


def test_metrics_that_cannot_be_shown_are_one_line(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "few.pcap", 100)
    with scripted(lambda line: None) as hub:
        taken = hub.ws.removeprefix("ws://")
        command = program("agent.cli", "replay", str(capture), "--hub", hub.ws, "--metrics", taken)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("nodetap-agent: cannot show metrics")
    assert "Traceback" not in done.stderr
