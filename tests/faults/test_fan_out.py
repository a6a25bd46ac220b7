"""One question to many agents of which some do not answer: scenario 17 on live processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from figures import record
from procs import Agent, Hub, Process, ending, free_port, program, until

pytestmark = pytest.mark.root

AGENTS, DEADLINE, MARGIN = 10, 2.0, 0.2
NAMES = [f"n{number}" for number in range(AGENTS)]
ASLEEP, STOPPED = "n3", "n7"


def idle_agent(folder: Path, hub: Hub, name: str, **env: str) -> Agent:
    """A live agent that captures nothing: nobody sends to its port."""
    return Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {free_port()}", "--node", name,
        "--ring-bytes", str(1 << 20), name=name, env=env,
    )  # fmt: skip


def ask(hub: Hub, deadline: float = DEADLINE) -> tuple[dict[str, Any], float]:
    """The answer, and the seconds it took."""
    begun = time.monotonic()
    answer = hub.get(f"/v1/doctor?deadline={deadline:g}")
    return answer, time.monotonic() - begun


def resident(process: Hub) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process.popen.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def threads(process: Hub) -> int:
    return len(list(Path(f"/proc/{process.popen.pid}/task").iterdir()))


@pytest.mark.slow
def test_slow_agents_cost_their_own_part_and_are_named(tmp_path: Path) -> None:
    """Scenario 17: ten agents, one asleep, one SIGSTOPped."""
    asleep = tmp_path / "asleep"
    hub = Hub(tmp_path).ready()
    agents = {name: idle_agent(tmp_path, hub, name, NODETAP_FAILPOINT=f"ask_sleep={asleep}") if name == ASLEEP else
              idle_agent(tmp_path, hub, name) for name in NAMES}  # fmt: skip
    with ending(hub, *agents.values()):
        until("all are healthy", lambda: sorted(hub.agents()) == NAMES, 60)
        until("all answer", lambda: list(ask(hub)[0]["agents"]) == NAMES)
        for _ in range(20):  # until pools of threads and memory are as large as they get
            ask(hub)
        baseline = ask(hub)[0]["facts"]["hub"]["tasks"], threads(hub), resident(hub)

        asleep.touch()
        agents[STOPPED].send(signal.SIGSTOP)
        answer, seconds = ask(hub)
        first, parts = seconds, len(answer["agents"])
        assert DEADLINE - 0.05 <= seconds <= DEADLINE + MARGIN
        assert list(answer["agents"]) == [name for name in NAMES if name not in (ASLEEP, STOPPED)]
        missing = {part["agent"]: part for part in answer["missing"]}
        assert list(missing) == [ASLEEP, STOPPED]
        assert missing[ASLEEP]["reason"] == "no_answer"
        assert missing[STOPPED]["reason"] in ("no_answer", "stalled")
        bad = [(f["where"], f["check"]) for f in answer["findings"] if f["level"] == "bad"]
        assert {(ASLEEP, "answer"), (STOPPED, "answer")} <= set(bad)

        answer, seconds = ask(hub)  # both were late once: half as long for them
        missing = {part["agent"]: part for part in answer["missing"]}
        second = seconds
        assert seconds <= DEADLINE / 2 + MARGIN
        assert (missing[ASLEEP]["reason"], "busy" in missing[ASLEEP]["detail"]) == ("refused", True)
        assert "within 1 s" in missing[STOPPED]["detail"]

        done = hub.cli("doctor", "--deadline", "2", "--strict", "-o", "json", check=False)
        assert done.returncode == 4, done.stderr
        assert [part["agent"] for part in json.loads(done.stdout)["missing"]] == [ASLEEP, STOPPED]
        assert hub.cli("doctor", "--deadline", "1", check=False).returncode == 1

        for _ in range(40):  # both have the shortest deadline by now
            _, seconds = ask(hub)
        assert seconds <= 0.25 + MARGIN
        after = ask(hub)[0]["facts"]["hub"]["tasks"], threads(hub), resident(hub)
        assert after[0] <= baseline[0]
        assert after[1] <= baseline[1]
        assert after[2] <= baseline[2] * 1.05

        asleep.unlink()
        agents[STOPPED].send(signal.SIGCONT)
        until("all answer again", lambda: list(ask(hub)[0]["agents"]) == NAMES, 30)
        until("the time of all is whole again", lambda: not ask(hub, 0.5)[0]["missing"])
        assert all(len([e for e in agent.events if e.get("event") == "welcome"]) == 1 for agent in agents.values())
    record(
        "17",
        "10 agents are asked, one asleep and one SIGSTOPped",
        "answer within the deadline (2 s) + 0.2 s, 8 parts, 2 named with reasons, exit 4, tasks and memory at the base",
        f"{first:.2f} s with {parts} parts, the next {second:.2f} s (its deadline is halved); after 44 questions "
        f"{after[0] - baseline[0]:+d} tasks, {after[1] - baseline[1]:+d} threads, "
        f"{(after[2] - baseline[2]) / 2**20:+.1f} MiB",
    )


def connected(process: Process) -> bool:
    """Whether a process has a socket."""
    with contextlib.suppress(FileNotFoundError):  # a file that it closed meanwhile
        return any(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{process.popen.pid}/fd").iterdir())
    return False


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 1, "its connection ended while it was asked"), (signal.SIGKILL, 3, "the hub")],
    ids=["SIGTERM", "SIGKILL"],
)
def test_a_hub_that_ends_during_a_question(tmp_path: Path, number: signal.Signals, code: int, said: str) -> None:
    """Whoever asked is told: by the hub that drains, else in one line. Its end waits for nobody, and the next hub is
    answered."""
    asleep, port = tmp_path / "asleep", free_port()
    hub = Hub(tmp_path, agents=port).ready()
    agent = idle_agent(tmp_path, hub, "n0", NODETAP_FAILPOINT=f"ask_sleep={asleep}")
    with ending(hub, agent):
        until("it answers", lambda: list(ask(hub)[0]["agents"]) == ["n0"])
        asleep.touch()
        asking = Process(
            program("hub.cli.main", "--hub-url", hub.api, "doctor", "--deadline", "60"), tmp_path / "asking.log"
        )
        with ending(asking):
            until("it asks", lambda: connected(asking))
            until("the question is with the agent", lambda: hub.get("/v1/doctor?deadline=0.2")["missing"])
            hub.send(number)
            assert hub.wait(15) == (0 if number == signal.SIGTERM else -number)
            assert (asking.wait(30), said in asking.text) == (code, True), asking.text
            assert code == 1 or len(asking.text.splitlines()) == 1, asking.text
        again = hub.again().ready()
        with ending(again):
            until("it is back", lambda: again.agents().get("n0", {}).get("verdict") == "healthy", 30)
            part = ask(again)[0]["missing"][0]
            assert (part["agent"], part["reason"], "busy" in part["detail"]) == ("n0", "refused", True)
            asleep.unlink()
            until("it answers again", lambda: list(ask(again)[0]["agents"]) == ["n0"])
            assert agent.stop() == 0
