#!/usr/bin/env python3
"""Print what an operator sees from the first command to the first filtered packet, for docs/kubernetes.md.

    PYTHONPATH=.:tests:tests/hub:tests/k8s python tests/k8s/transcript.py

Programs, packets and answers are real. The cluster is not: two network namespaces are two nodes with a pod each, the
API server is that of the tests, and kubectl is the stand-in that forwards a port. Needs root.
"""

from __future__ import annotations

import http.server
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

from cluster import SECOND, node, pod, running
from live.netns import Netns, pair
from procs import Agent, Hub, until
from server import ApiServer
from test_kubectl import Cluster
from test_kubectl import pod as hub_pod
from tokens import good, token

COMMANDS = (
    "agents -o wide",
    "packets http.request.method == GET --last 5m --limit 2",
    "packets --pod db-0 tcp.flags.reset == 1 --last 5m --limit 2",
    "calls --by k8s.dst.workload --last 5m",
    "map --by workload --last 5m",
    "ledger",
    "agents -o wide",
)


def objects(server: ApiServer, nodes: tuple[Netns, Netns]) -> None:
    """Two nodes, and a pod on each whose address is that of its namespace."""
    old = time.time_ns() - 3600 * SECOND
    for number, kind in enumerate((("ReplicaSet", "web-5d4f8c"), ("StatefulSet", "db"))):
        name = f"node-{number + 1}"
        server.put("nodes", node(name, old, f"192.168.0.{number + 1}", f"10.99.{number}.0/24"))
        made = pod(("web-5d4f8c-x", "db-0")[number], old, namespace="shop", node=name, owner=kind,
                   labels={"pod-template-hash": "5d4f8c"} if number == 0 else {})  # fmt: skip
        server.put("pods", running(made, nodes[number].address, old, old))


def talk(client: Netns, server: Netns) -> None:
    """A pod asks another twice, and once on a port where nobody listens."""
    with server.entered():
        listening = http.server.ThreadingHTTPServer((server.address, 8080), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
    with client.entered():
        for url in (f"http://{server.address}:8080/", f"http://{server.address}:8080/none", "http://10.99.0.2:9999/"):
            with suppress(OSError):
                urllib.request.urlopen(url, timeout=5).read()
    listening.shutdown()
    listening.server_close()


def agents_of(folder: Path, nodes: tuple[Netns, Netns], hub: Hub) -> list[Agent]:
    """An agent on each node."""
    return [
        Agent(
            folder, "run", "--hub", f"ws://{nodes[0].address}:{hub.agents_port}", "--interface", where.device, "--node",
            f"node-{number + 1}", "--token-file", str(folder / "token"), "--l7", "fast", "--insecure",
            name=f"node-{number + 1}", prefix=where.command(),
        )
        for number, where in enumerate(nodes)
    ]  # fmt: skip


def show(folder: Path, hub: Hub) -> None:
    """The commands and what they print."""
    at = Cluster(folder / "kubectl")
    at.say(pods=[hub_pod(tls=False)], secrets={"nodetap-token": {"word": "unused"}})
    (at.folder / "target").write_text(f"127.0.0.1:{hub.api_port}")
    for command in COMMANDS:
        done = at.run(*command.split())
        print(f"$ kubectl nodetap {command}\n{done.stdout}{done.stderr}")


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nodes = stack.enter_context(pair())
        stack.enter_context(nodes[0].entered())
        server = ApiServer()
        stack.callback(server.close)
        objects(server, nodes)
        secret = token(time.time() + 3600)
        (folder / "token").write_text(secret)
        server.tokens[secret] = good()
        port_options = ("--insecure", "--kubernetes", server.url, "--agent-auth", "tokenreview")
        hub = Hub(
            folder, "--agents", "0.0.0.0:8470", *port_options, "--agent-account", "watch/nodetap-agent", agents=8470
        )
        stack.callback(hub.kill)
        hub.ready()
        for agent in agents_of(folder, nodes, hub):
            stack.callback(agent.kill)
        until("both stream", lambda: [a["state"] for a in hub.agents().values()] == ["streaming"] * 2)
        talk(*nodes)
        until("both are stored", lambda: len(hub.rows("tcp.port == 9999 and tcp.flags.reset == 1")) == 2)
        show(folder, hub)


if __name__ == "__main__":
    main()
