"""Which rights the containers need: one capability for the agent, none for the hub, nothing to write but volumes."""

from __future__ import annotations

from pathlib import Path

from container_cluster import Cluster, cluster
from pods import Pod, removing
from procs import until

EVERYTHING = ("--promisc", "--capture-workers", "2", "--filter", "udp or vlan 5", "--recorder", "/spool/recorder")
"""What might need a right of its own: a device that listens to all, a shared ring, a filter compiled on the device."""


def _status(pod: Pod) -> dict[str, str]:
    text = pod.run("cat", "/proc/self/status").stdout
    return {key: value.strip() for key, value in (line.split(":", 1) for line in text.splitlines())}


def _captures(at: Cluster, agent: Pod, workers: int = 1) -> None:
    def trying() -> int:  # to reach a hub that is not there; signals are heard then
        return len({event["agent"] for event in agent.events() if event["event"] == "reconnecting"})

    until("all capture", lambda: trying() == workers)
    at.exchange(10)
    agent.terminate(60)
    last = [event["ledger"] for event in agent.events() if event["event"] == "stopped"]
    assert sum(books["captured"] for books in last) == 20


def test_net_raw_is_all_that_an_agent_needs(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        agent = at.agent(*EVERYTHING, "--drain-timeout", "1")
        with removing(agent):
            status = _status(agent)
            assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 1 << 13  # CAP_NET_RAW, capabilities(7)
            assert status["NoNewPrivs"] == "1"
            assert status["Seccomp"] == "2"  # a filter
            _captures(at, agent, workers=2)


def test_without_net_raw_it_says_what_is_missing(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        agent = at.agent(add=["NET_ADMIN", "SYS_ADMIN"])
        with removing(agent):
            assert agent.code() == 2
            assert "CAP_NET_RAW" in agent.log()


def test_an_agent_needs_no_file_system(tmp_path: Path) -> None:
    """Neither /tmp nor a volume, where it has no spool."""
    with cluster(tmp_path) as at:
        said = {"NODETAP_INTERFACE": at.node.device, "NODETAP_DRAIN_TIMEOUT": "1", "NODETAP_FILTER": "udp"}
        agent = Pod("agent", at.node.name, "run", add=["NET_RAW"], env=said)
        with removing(agent):
            _captures(at, agent)


def test_the_hub_needs_no_right_and_writes_to_its_volumes_alone(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        hub = at.hub()
        with removing(hub):
            until("the hub is ready", lambda: at.probe_hub("/readyz") == 200)
            status = _status(hub)
            assert {int(status[name], 16) for name in ("CapBnd", "CapPrm", "CapEff", "CapAmb")} == {0}
            assert status["Uid"].split()[0] == "10001"
            assert hub.run("sh", "-c", "touch /opt/nodetap/x || touch /x", check=False).returncode != 0
