"""Hub and agent with the rights of their pods, watched by a real Prometheus.

Every metric that dashboard and alerts name is there, no alert fires where all is well, and the packet of `helm test` is
found.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from procs import Agent, Hub, Process, ending, free_port, until

from tests.certificates import self_signed
from tests.k8s.server import ApiServer
from tests.live.netns import Netns, pair

CHART = Path(__file__).resolve().parent.parent.parent / "helm" / "nodetap"
ALERTS, DASHBOARD = CHART / "files" / "alerts.yaml", CHART / "files" / "dashboard.json"
NAME = re.compile(r"\bnodetap_[a-z0-9_]+")
AS_IN_THE_POD = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all", "--no-new-privs")
"""Root of a container that drops all capabilities but NET_RAW, and may gain none."""

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not all(map(shutil.which, ("prometheus", "setpriv", "ip"))),
        reason="needs prometheus, setpriv and ip (Debian: prometheus, util-linux, iproute2)",
    ),
]


@dataclass
class Cluster:
    """A node with everything on it, in a network of its own."""

    node: Netns
    hub: Hub
    agent: Agent
    folder: Path
    prometheus: str

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of Prometheus."""
        with self.node.entered():
            url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]

    def samples(self, query: str) -> list[dict[str, Any]]:
        return list(self.ask("query", query=query)["result"])


def _listening(cluster: Cluster) -> bool:
    try:
        return len(cluster.samples("up == 1")) == 2
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    certificate, key = self_signed()
    for name, content in (("tls.crt", certificate), ("tls.key", key), ("token", b"of this test")):
        (folder / name).write_bytes(content)
    with pair() as (node, _):
        inside = ["ip", "netns", "exec", node.name]
        with node.entered():
            api_server = ApiServer()  # of a cluster with nothing in it
        secrets = ("--token-file", str(folder / "token"))
        hub = Hub(
            folder,
            "--tls-cert",
            str(folder / "tls.crt"),
            "--tls-key",
            str(folder / "tls.key"),
            *secrets,
            "--kubernetes",
            api_server.url,
            prefix=inside,
        )
        with ending(hub):
            until("the hub is up", lambda: "hub is up" in hub.text)
            agent = Agent(
                folder, "run", "--hub", hub.ws.replace("ws://127.0.0.1", "wss://localhost"), "--node", "node-1",
                "--tls-ca", str(folder / "tls.crt"), *secrets, "--spool", str(folder / "spool"), "--promisc",
                prefix=[*inside, *AS_IN_THE_POD],
            )  # fmt: skip
            port = free_port()
            config = folder / "prometheus.yml"
            config.write_text(yaml.safe_dump(_config(folder, hub, agent)))
            prometheus = Process(
                [*inside, "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address=127.0.0.1:{port}"],
                folder / "prometheus.log",
            )  # fmt: skip
            with ending(agent, prometheus):
                one = Cluster(node, hub, agent, folder, f"http://127.0.0.1:{port}")
                until("Prometheus has scraped both", lambda: _listening(one))
                until("the agent streams", lambda: one.samples('nodetap_agent_state{state="streaming"} == 1'))
                until("the hub knows the agent's link", lambda: one.samples("nodetap_hub_agent_round_trip_seconds"))
                yield one
        api_server.close()


def _config(folder: Path, hub: Hub, agent: Agent) -> dict[str, Any]:
    """As the chart's monitors have it."""
    return {
        "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "hub",
                "scheme": "https",
                "authorization": {"credentials_file": str(folder / "token")},
                "tls_config": {"ca_file": str(folder / "tls.crt"), "server_name": "localhost"},
                "static_configs": [{"targets": [f"127.0.0.1:{hub.api_port}"]}],
            },
            {
                "job_name": "agents",
                "static_configs": [{"targets": [f"127.0.0.1:{agent.metrics_port}"], "labels": {"node": "node-1"}}],
            },
        ],
    }


def _alerts() -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def _panels() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_every_metric_that_is_named_is_scraped(cluster: Cluster) -> None:
    named = {re.sub(r"_bucket$", "", name) for query in (*_alerts(), *_panels()) for name in NAME.findall(query)}
    assert len(named) > 20
    seen = {entry["metric"] for entry in cluster.ask("targets/metadata", match_target='{job=~".+"}')}
    assert named <= seen
    counts = {entry["metric"]: entry["type"] for entry in cluster.ask("targets/metadata", match_target='{job=~".+"}')}
    for query in (*_alerts(), *_panels()):
        for name in re.findall(r"(?:rate|increase)\((nodetap_[a-z0-9_]+?)(?:_bucket)?[\[{]", query):
            assert counts[name] in ("counter", "histogram"), name


def test_labels_that_are_named_exist(cluster: Cluster) -> None:
    for query in (*_alerts(), *_panels()):
        for selector in re.findall(r'nodetap_[a-z0-9_]+\{\w+="\w+"\}', query):
            until(selector, lambda selector=selector: cluster.samples(selector))


@pytest.mark.parametrize("query", _panels())
def test_queries_of_the_dashboard_can_be_asked(cluster: Cluster, query: str) -> None:
    assert isinstance(cluster.samples(query.replace("$__rate_interval", "1m")), list)


def test_where_all_is_well_no_alert_fires(cluster: Cluster) -> None:
    def evaluated() -> bool:
        rules = [rule for group in cluster.ask("rules")["groups"] for rule in group["rules"]]
        return bool(rules) and all(rule["health"] == "ok" for rule in rules)

    until("every rule was evaluated without an error", evaluated)

    def raised() -> set[str]:
        return {alert["labels"]["alertname"] for alert in cluster.ask("alerts")["alerts"]} - set(_SHORT)

    until("no alert fires, nor is about to", lambda: not raised())  # one scrape may come late on a busy machine


_SHORT = ("NodetapCertificateEndsSoon", "NodetapCertificateEnds", "NodetapHubDiskNearlyFull", "NodetapHubDiskFull")
"""What is true here: the certificate of this test is short-lived, and a disk may be full."""


def test_the_certificate_of_two_days_is_told(cluster: Cluster) -> None:
    for query in (
        "nodetap_hub_certificate_not_after_timestamp_seconds - time()",
        "nodetap_agent_hub_certificate_not_after_timestamp_seconds - time()",
    ):
        (sample,) = until(query, lambda query=query: cluster.samples(query))
        assert 86_400 < float(sample["value"][1]) < 2 * 86_400 + 60
    until("the alert fires", lambda: cluster.samples('ALERTS{alertname="NodetapCertificateEnds", alertstate="firing"}'))


def test_nothing_but_net_raw_is_needed(cluster: Cluster) -> None:
    status = Path(f"/proc/{cluster.agent.popen.pid}/status").read_text()
    held = {line.split()[0]: line.split()[1] for line in status.splitlines() if line.startswith(("Cap", "NoNewPrivs"))}
    assert int(held["CapEff:"], 16) == 1 << 13  # CAP_NET_RAW
    assert held["NoNewPrivs:"] == "1"
    assert [event["interfaces"] for event in cluster.agent.events if event.get("event") == "capturing"]
    assert not [event for event in cluster.agent.events if event.get("level") == "error"]


def test_the_packet_of_helm_test_is_found(cluster: Cluster) -> None:
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TARGET": "10.99.0.2",
        "NODETAP_HUB_URL": cluster.hub.api.replace("http://127.0.0.1", "https://localhost"),
        "NODETAP_TOKEN_FILE": str(cluster.folder / "token"),
        "NODETAP_TLS_CA": str(cluster.folder / "tls.crt"),
    }
    command = cluster.node.command(sys.executable, str(CHART / "files" / "packet.py"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"found: .*, seen by node-1 on {cluster.node.device}\n", done.stdout)
    nowhere = {**env, "TARGET": "127.0.0.2", "SECONDS": "1", "NODETAP_TOKEN_FILE": "/dev/null"}
    gone = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=120)
    assert gone.returncode == 1
    assert "not found within 1 s" in gone.stderr
