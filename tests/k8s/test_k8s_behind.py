"""The host's end of a pod's veth pair is named by its pod, from the node's routes to the hub's answer."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from cluster import SECOND, node, pod, running
from live.netns import pair
from procs import Agent, Hub, ending, until
from server import ApiServer


@pytest.mark.root
def test_the_pod_behind_an_interface_is_named(tmp_path: Path) -> None:
    old = time.time_ns() - 3600 * SECOND
    with pair() as (host, inside), host.entered():
        server = ApiServer()
        server.put("nodes", node("n1", old, "192.168.0.1", "10.99.0.0/24"))
        cart = pod("cart-0", old, namespace="shop", node="n1", owner=("StatefulSet", "cart"))
        server.put("pods", running(cart, inside.address, old, old))
        host.run("ip", "route", "add", f"{inside.address}/32", "dev", host.device)
        hub = Hub(tmp_path, "--kubernetes", server.url)
        agent = Agent(tmp_path, "run", "--hub", hub.ws, "--interface", host.device, "--interface", "lo", "--node", "n1")
        with ending(hub, agent):
            hub.ready()
            until("it streams", lambda: agent.state == "streaming")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
                until("rows are stored", lambda: _say(source, inside.address) and hub.rows("udp.dstport == 7777"))
                source.sendto(b"x", ("127.0.0.1", 7778))
                until("others too", lambda: hub.rows("udp.dstport == 7778"))
            (row, *_) = hub.rows('k8s.iface.pod == "cart-0"', "and", "udp.dstport == 7777")
            assert row["nodetap.iface"] == host.device
            assert (row["k8s.iface.namespace"], row["k8s.iface.workload"]) == ("shop", "cart")
            assert "k8s.iface.pod" not in hub.rows("udp.dstport == 7778")[0]
        server.close()


def _say(source: socket.socket, address: str) -> bool:
    source.sendto(b"x", (address, 7777))
    return True
