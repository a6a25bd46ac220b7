"""What the probes ask, answered by live programs: a loop that hangs is not alive, a hub that is away hurts nobody."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from procs import Agent, Hub, ending, free_port, status_of, until

pytestmark = pytest.mark.root


def said(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode().strip())
    except urllib.error.HTTPError as error:
        return error.read().decode().strip()


def agent_of(hub: Hub, folder: Path, failpoint: str, first: str = "") -> Agent:
    return Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {free_port()}", "--node", "n1",
        "--stall-timeout", "2", env={"NODETAP_FAILPOINT": failpoint}, first=first,
    )  # fmt: skip


def test_ready_is_who_captures_and_has_a_link_alive_is_whose_loop_runs(tmp_path: Path) -> None:
    block = tmp_path / "block"
    hub = Hub(tmp_path).ready()
    with ending(hub):
        agent = agent_of(hub, tmp_path, f"loop_block={block}")
        with ending(agent):
            until("ready", lambda: status_of(f"{agent.url}/readyz") == 200)
            assert status_of(f"{agent.url}/healthz") == 200

            (tmp_path / "new").write_text("6")
            (tmp_path / "new").rename(block)
            until("not ready", lambda: said(f"{agent.url}/readyz") == "stalled: loop", pause=0.02)
            assert status_of(f"{agent.url}/healthz") == 200  # it may come back; after 90 s it is given up
            until("ready again", lambda: status_of(f"{agent.url}/readyz") == 200)

            hub.kill()
            until("not ready", lambda: status_of(f"{agent.url}/readyz") == 503)
            assert said(f"{agent.url}/readyz").startswith(("backoff: ", "connecting: "))
            assert status_of(f"{agent.url}/healthz") == 200
            again = hub.again().ready()
            with ending(again):
                until("ready once more", lambda: status_of(f"{agent.url}/readyz") == 200)
                assert agent.popen.poll() is None


def test_a_loop_that_hangs_for_good_is_not_alive_also_where_no_watchdog_looks(tmp_path: Path) -> None:
    block = tmp_path / "block"
    hub = Hub(tmp_path).ready()
    with ending(hub):
        dead = "import agent.watchdog\nagent.watchdog.LOOP_DEAD = 1.0"
        agent = agent_of(hub, tmp_path, f"unwatched=1,loop_block={block}", first=dead)
        with ending(agent):
            until("alive", lambda: status_of(f"{agent.url}/healthz") == 200)
            (tmp_path / "new").write_text("60")
            (tmp_path / "new").rename(block)
            until("not alive", lambda: status_of(f"{agent.url}/healthz") == 503)
            assert said(f"{agent.url}/healthz").startswith("the loop gave no sign for")
