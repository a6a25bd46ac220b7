"""A node and a place for the hub, two network namespaces, with what Kubernetes would mount: secrets and volumes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from certificates import self_signed
from pods import HUB_USER, Pod, empty_dir

from tests.live.netns import Netns, pair

GRACE = 30
"""terminationGracePeriodSeconds: above the agent's drain deadline (20 s) and the hub's (15 s)."""
METRICS = 9470


class Cluster:
    """`node` is where the agent's pod runs (hostNetwork), `other` where the hub's does, and whom the node talks to."""

    def __init__(self, folder: Path, node: Netns, other: Netns) -> None:
        self.folder, self.node, self.other = folder, node, other
        self.secret = _secret(folder / "secret", other.address)
        self.data, self.tmp = empty_dir(folder / "data", HUB_USER), empty_dir(folder / "tmp", HUB_USER)
        self.spool = empty_dir(folder / "spool")

    def hub(self, *args: str, options: Sequence[str] = (), env: dict[str, str] | None = None) -> Pod:
        """The hub's pod, not ready yet: no capability, not root, two volumes."""
        said = {
            "NODETAP_AGENTS": "0.0.0.0:8470", "NODETAP_API": "0.0.0.0:8480", "NODETAP_STORE": "chdb:///data/store",
            "NODETAP_TOKEN_FILE": "/secret/token", "NODETAP_TLS_CERT": "/secret/tls.crt",
            "NODETAP_TLS_KEY": "/secret/tls.key", "TMPDIR": "/tmp",
            # for `kubectl exec ... nodetap`
            "NODETAP_HUB_URL": f"https://{self.other.address}:8480", "NODETAP_TLS_CA": "/secret/tls.crt",
        }  # fmt: skip
        volumes = {self.data: "/data", self.tmp: "/tmp", self.secret: "/secret:ro"}
        return Pod("hub", self.other.name, "serve", *args, user=HUB_USER, volumes=volumes, env={**said, **(env or {})},
                   options=options)  # fmt: skip

    def agent(self, *args: str, add: Sequence[str] = ("NET_RAW",), options: Sequence[str] = ()) -> Pod:
        """The agent's pod: root with one capability, in the node's network."""
        said = {
            "NODETAP_HUB": f"wss://{self.other.address}:8470", "NODETAP_NODE": "node-1", "NODETAP_SPOOL": "/spool",
            "NODETAP_INTERFACE": self.node.device, "NODETAP_METRICS": f"{self.node.address}:{METRICS}",
            "NODETAP_TOKEN_FILE": "/secret/token", "NODETAP_TLS_CA": "/secret/tls.crt",
        }  # fmt: skip
        volumes = {self.spool: "/spool", self.secret: "/secret:ro"}
        return Pod("agent", self.node.name, "run", *args, add=add, volumes=volumes, env=said, options=options)

    def probe_agent(self, path: str) -> int:
        """The status of an agent's probe, 0 where nobody answers."""
        with self.node.entered():
            return _status(f"http://{self.node.address}:{METRICS}{path}")

    def probe_hub(self, path: str) -> int:
        """The same of the hub's."""
        with self.other.entered():
            return _status(f"https://{self.other.address}:8480{path}")

    def exchange(self, count: int, port: int = 7777) -> None:
        """`count` datagrams from the node and as many back."""
        with self.other.entered():
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with self.node.entered():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, client:
            server.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # a child not yet at its exec may hold the last one
            server.bind((self.other.address, port))
            client.settimeout(10)
            for number in range(count):
                client.sendto(b"%d" % number, server.getsockname())
                data, who = server.recvfrom(64)
                server.sendto(data, who)
                client.recv(64)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of one node, gone afterwards."""
    with pair() as (node, other):
        yield Cluster(folder, node, other)


def ask(hub: Pod, *args: str) -> list[dict[str, Any]]:
    """What `nodetap ARGS -o ndjson` says in the hub's container."""
    return [json.loads(line) for line in hub.run("nodetap", *args, "-o", "ndjson").stdout.splitlines()]


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5, context=_trusting()) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _trusting() -> ssl.SSLContext:
    """As kubelet, which does not look at certificates."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _secret(folder: Path, address: str) -> Path:
    """A Secret's volume with `defaultMode: 0440` in a pod with fsGroup; the agent's root reads it as owner."""
    folder.mkdir(mode=0o755)
    certificate, key = self_signed(addresses=[address])
    files = {"tls.crt": certificate, "tls.key": key, "token": b"secret\n"}
    for file, text in files.items():
        (folder / file).write_bytes(text)
        (folder / file).chmod(0o440)
        os.chown(folder / file, 0, HUB_USER)
    return folder
