"""Agent and hub as pods: real traffic captured, found through the hub, everything stored when they are told to stop."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from container_cluster import GRACE, ask, cluster
from pods import removing
from procs import until

COUNT = 200
FOUND = ("packets", "udp.port == 7777", "--limit", "0")


def test_traffic_is_captured_found_and_kept(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        agent = at.agent()
        with removing(agent):
            until("the agent lives without a hub", lambda: at.probe_agent("/healthz") == 200)
            assert at.probe_agent("/readyz") == 503
            hub = at.hub()
            with removing(hub):
                until("the hub is ready", lambda: at.probe_hub("/readyz") == 200)
                until("the agent is ready", lambda: at.probe_agent("/readyz") == 200)
                at.exchange(COUNT)
                until("all are found", lambda: len(ask(hub, *FOUND)) >= 2 * COUNT)
                found = ask(hub, *FOUND)
                assert len(found) == 2 * COUNT
                assert {row["nodetap.agent"] for row in found} == {"node-1"}
                assert [row["ip.src"] for row in found[:2]] == [at.node.address, at.other.address]
                assert hub.run("nodetap", "packets", "-o", "parquet", "-w", "/tmp/rows.parquet").returncode == 0

                stop = threading.Event()
                busy = threading.Thread(target=lambda: [at.exchange(10, 7778) for _ in iter(stop.is_set, True)])
                busy.start()
                try:
                    code, took = agent.terminate(GRACE)
                finally:
                    stop.set()
                    busy.join()
                assert (code, took < GRACE) == (0, True)
                books = json.loads(hub.run("nodetap", "ledger", "-o", "json").stdout)
                assert books["balanced"]
                assert books["complete"]
                [own] = books["agents"]
                assert own["pending"] == 0
                assert own["row"] == own["captured"] == len(ask(hub, "packets", "--since", "all", "--limit", "0"))
                assert [known["verdict"] for known in ask(hub, "agents")] == ["left"]
                assert not list(at.spool.rglob("*.seg"))

                code, took = hub.terminate(GRACE)
                assert (code, took < GRACE) == (0, True)
            again = at.hub()
            with removing(again):
                until("the hub is ready again", lambda: at.probe_hub("/readyz") == 200)
                assert len(ask(again, *FOUND)) == 2 * COUNT


def test_what_a_stopped_agent_could_not_send_comes_with_the_next_pod(tmp_path: Path) -> None:
    """A DaemonSet's update while the hub is away: the spool, on a hostPath, is the next pod's."""
    with cluster(tmp_path) as at:
        first = at.agent("--drain-timeout", "2", "--filter", "udp")
        with removing(first):
            until("it captures", lambda: at.probe_agent("/healthz") == 200)
            at.exchange(COUNT)
            code, _ = first.terminate(GRACE)
            assert code == 3
        hub, second = at.hub(), at.agent("--filter", "udp")
        with removing(hub, second):
            until("the agent is ready", lambda: at.probe_agent("/readyz") == 200)
            until("all are found", lambda: len(ask(hub, *FOUND)) >= 2 * COUNT)
            books = json.loads(hub.run("nodetap", "ledger", "-o", "json").stdout)
            assert (books["balanced"], books["complete"]) == (True, True)
            assert sum(agent["row"] for agent in books["agents"]) == 2 * COUNT
