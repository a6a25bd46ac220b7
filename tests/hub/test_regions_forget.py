"""An agent forgotten at several hubs: at all that know it, whatever becomes of the others."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from numbered import write_pcap
from procs import Agent, Hub, ending, until

from hub.cli.main import run
from tests.hub.test_regions import hub_with, run_of

WEB, DB = run_of("web-1", 7, 0), run_of("db/1", 9, 500)


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[list[Hub]]:
    """One that knows two agents, one that knows the first, one that knows neither."""
    found = [hub_with(tmp_path / name, entries) for name, entries in (("a", [*WEB, *DB]), ("b", WEB), ("c", []))]
    with ending(*found):
        yield [hub.ready() for hub in found]


def forget(hubs: list[Hub], name: str) -> int:
    urls = [word for hub in hubs for word in ("--hub-url", hub.api)]
    return run([*urls, "--hub-deadline", "6", "agents", "forget", name])


def test_it_is_forgotten_wherever_it_is_known(hubs: list[Hub], capfd: Any) -> None:
    a, b, c = hubs
    assert forget(hubs, "web-1") == 0
    out, err = capfd.readouterr()
    assert (out.splitlines(), err) == ([f"forgot web-1 at the hub {hub.api}" for hub in (a, b)], "")
    assert [sorted(hub.agents()) for hub in hubs] == [["db/1"], [], []]
    assert forget(hubs, "db/1") == 0
    assert capfd.readouterr().out.splitlines() == [f"forgot db/1 at the hub {a.api}"]
    assert forget(hubs, "db/1") == 1
    assert capfd.readouterr().err == "nodetap: no hub has an agent db/1: `nodetap agents` lists them\n"
    c.kill()
    assert forget(hubs, "db/1") == 1
    err = capfd.readouterr().err
    assert (err.count("\n"), f"no hub that answers (missing: {c.api}) has an agent db/1" in err) == (1, True)


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
def test_a_hub_that_does_not_answer_is_named(hubs: list[Hub], capfd: Any, fault: signal.Signals) -> None:
    a, b, _ = hubs
    b.send(fault)
    if fault == signal.SIGKILL:
        b.wait()
    assert forget(hubs, "web-1") == 3
    out, err = capfd.readouterr()
    assert out == f"forgot web-1 at the hub {a.api}\n"
    why = "hub unresponsive: " if fault == signal.SIGSTOP else "cannot reach the hub: "
    assert err.startswith(f"nodetap: web-1 not forgotten at the hub {b.api}: {why}")
    assert err.count("\n") == 1
    b.send(signal.SIGCONT)
    if fault == signal.SIGKILL:
        hubs[1] = b.again().ready()
    with ending(hubs[1]):
        assert forget(hubs, "web-1") == 0
        assert capfd.readouterr().out == f"forgot web-1 at the hub {b.api}\n"


def test_one_that_is_connected_is_not_forgotten_there(hubs: list[Hub], capfd: Any, tmp_path: Path) -> None:
    a, b, _ = hubs
    write_pcap(tmp_path / "slow.pcap", 100_000)
    slow = Agent(tmp_path, "replay", str(tmp_path / "slow.pcap"), "--hub", b.ws, "--speed", "100", "--node", "n")
    with ending(slow):
        (name,) = until("it is connected", lambda: [name for name in b.agents() if name.startswith("n/replay-")])
        assert forget([a, b], name) == 1
        said = f"nodetap: {name} not forgotten at the hub {b.api}: {name} is connected: stop it first, then forget it\n"
        assert capfd.readouterr() == ("", said)
