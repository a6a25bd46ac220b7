"""`kubectl nodetap`: the hub found, its token and certificate used, the forward mended, nothing left behind.

kubectl is `fake_kubectl.py` here, a real process that forwards real TCP to a real hub; no cluster is involved.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import self_signed
from numbered import write_pcap
from procs import Agent, Hub, Process, ending, environment, program, until

from hub.cli.kubectl import found_of

FAKE = Path(__file__).with_name("fake_kubectl.py")
LABELS = {"app.kubernetes.io/component": "hub", "app.kubernetes.io/instance": "one"}


def service(namespace: str = "watch", name: str = "nodetap-hub") -> dict[str, Any]:
    labels = {**LABELS, "nodetap/service": "people"}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"metadata": meta, "spec": {"selector": LABELS, "ports": [{"name": "api", "port": 8480}]}}


def pod(namespace: str = "watch", *, tls: bool = True) -> dict[str, Any]:
    volumes = [{"name": "tmp", "emptyDir": {}}]
    volumes += [
        {"name": "token", "secret": {"secretName": "nodetap-token", "items": [{"key": "word", "path": "token"}]}}
    ]
    volumes += [{"name": "tls", "secret": {"secretName": "nodetap-hub-tls"}}] if tls else []
    return {
        "metadata": {"name": "nodetap-hub-0", "namespace": namespace, "labels": LABELS},
        "spec": {"volumes": volumes},
    }


class Cluster:
    """What the fake kubectl tells of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.say(services=[service()], pods=[pod()], secrets={})
        (folder / "bin").mkdir()
        shutil.copy(FAKE, folder / "bin" / "kubectl")
        (folder / "bin" / "kubectl").chmod(0o755)

    def say(self, **tables: Any) -> None:
        for name, values in tables.items():
            (self.folder / f"{name}.json").write_text(json.dumps(values))

    @property
    def env(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return environment({"PATH": path, "FAKE_KUBECTL": str(self.folder), "TMPDIR": str(self.folder)})

    def command(self, *args: str) -> list[str]:
        return program("hub.cli.kubectl", *args)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args), capture_output=True, text=True, env=self.env, timeout=60, check=False
        )

    @property
    def forwarder(self) -> int:
        return int((self.folder / "forward.pid").read_text())

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path / "cluster")


@pytest.fixture
def hub(tmp_path: Path, cluster: Cluster) -> Iterator[Hub]:
    """A hub as the chart starts it, with a token and TLS, that the fake cluster leads to."""
    certificate, key = self_signed()
    (tmp_path / "tls.crt").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    (tmp_path / "token").write_text("secret")
    cluster.say(secrets={"nodetap-token": {"word": "secret"}, "nodetap-hub-tls": {"ca.crt": certificate.decode()}})
    files = {"--token-file": "token", "--tls-cert": "tls.crt", "--tls-key": "tls.key"}
    hub = Hub(tmp_path, *(word for name, file in files.items() for word in (name, str(tmp_path / file))))
    (cluster.folder / "target").write_text(f"127.0.0.1:{hub.api_port}")
    with ending(hub):
        until("the hub is up", lambda: any(event["event"] == "hub is up" for event in hub.events))
        yield hub


def replay(hub: Hub, folder: Path, frames: int, node: str) -> None:
    """Have the hub store that many rows."""
    pcap = write_pcap(folder / f"{node}.pcap", frames)
    way_in = ("--token-file", str(folder / "token"), "--tls-ca", str(folder / "tls.crt"))
    url = f"wss://localhost:{hub.agents_port}"
    agent = Agent(folder, "replay", str(pcap), "--hub", url, "--node", node, *way_in, name=node)
    with ending(agent):
        assert agent.wait() == 0, agent.text


def test_the_hub_is_found_and_asked(cluster: Cluster, hub: Hub) -> None:
    done = cluster.run("--context", "prod", "agents", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr
    assert all(call.startswith("--context=prod ") for call in cluster.calls())
    assert cluster.calls()[-1].split()[1:4] == ["port-forward", "--namespace", "watch"]
    assert gone(cluster.forwarder)
    assert not list(cluster.folder.glob("kubectl-nodetap-*"))


def test_exit_codes_and_options_are_those_of_nodetap(cluster: Cluster, hub: Hub) -> None:
    wrong = cluster.run("-n", "watch", "packets", "tcp.prot == 1")
    assert (wrong.returncode, "did you mean" in wrong.stderr) == (2, True)
    mine = cluster.folder / "mine"
    mine.write_text("wrong")
    for option in (("--token-file", str(mine)), (f"--token-file={mine}",)):  # counts, and no Secret is asked for it
        before = len(cluster.calls())
        assert cluster.run(*option, "agents").returncode == 3
        assert not [call for call in cluster.calls()[before:] if "secret nodetap-token" in call]


@pytest.mark.parametrize("args", [(), ("-n", "elsewhere", "agents")])
def test_what_cannot_work_is_said_in_one_line(cluster: Cluster, args: tuple[str, ...]) -> None:
    done = cluster.run(*args)
    assert done.returncode in (2, 3)
    assert done.stderr.startswith("kubectl nodetap: ")
    assert len(done.stderr.splitlines()) == 1


def test_of_several_hubs_one_is_to_be_chosen(cluster: Cluster) -> None:
    cluster.say(services=[service(), service("other")])
    done = cluster.run("agents")
    assert (done.returncode, "other/nodetap-hub, watch/nodetap-hub" in done.stderr) == (2, True)


def test_a_secret_that_may_not_be_read_is_named(cluster: Cluster) -> None:
    done = cluster.run("agents")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        'Error from server (NotFound): secrets "nodetap-token" not found',  # kubectl's own words
        "kubectl nodetap: cannot ask the cluster: kubectl get secret failed with 1",
    ]


def test_follow_goes_on_where_the_forward_dies(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    with out.open("wb") as rows, (tmp_path / "err").open("wb") as err:
        command = cluster.command("follow", "--since", "all", "-o", "ndjson", "--fields", "frame.number,nodetap.agent")
        process = subprocess.Popen(command, stdout=rows, stderr=err, stdin=subprocess.DEVNULL, env=cluster.env)

    def numbers() -> list[tuple[str, int]]:
        whole, _, _ = out.read_text().rpartition("\n")
        found = [json.loads(line) for line in whole.splitlines()]
        return [(row["nodetap.agent"].split("/")[0], row["frame.number"]) for row in found]

    try:
        for turn, number in enumerate((signal.SIGKILL, signal.SIGTERM, None)):
            replay(hub, tmp_path, 100, f"node-{turn}")
            until("the rows have come", lambda turn=turn: len(numbers()) >= 100 * (turn + 1))
            if number is not None:
                first = cluster.forwarder
                os.kill(first, number)
                until("another forward", lambda first=first: cluster.forwarder != first)
        assert numbers() == [(f"node-{turn}", number) for turn in range(3) for number in range(1, 101)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert gone(cluster.forwarder)
    finally:
        process.kill()
        process.wait()


def test_follow_goes_on_where_the_forward_stays_and_leads_nowhere(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    """As kubectl's does when the pod it led to is gone."""
    replay(hub, tmp_path, 10, "node-0")
    follow = Process(
        cluster.command("follow", "--since", "all", "-o", "ndjson", "--fields", "frame.number"),
        tmp_path / "rows", cluster.env,
    )  # fmt: skip
    with ending(follow):
        until("the rows have come", lambda: len(follow.events) == 10)
        first = cluster.forwarder
        hub.stop()
        until("another forward", lambda: cluster.forwarder != first)
        again = hub.again()
        with ending(again):
            until("the hub is up", lambda: sum(event["event"] == "hub is up" for event in again.events) == 2)
            replay(again, tmp_path, 10, "node-1")
            until("the other rows have come", lambda: len(follow.events) == 20)
            follow.send(signal.SIGINT)
            assert follow.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_forward_outlives_the_plugin(cluster: Cluster, hub: Hub, tmp_path: Path, number: signal.Signals) -> None:
    process = Process(cluster.command("agents", "--watch"), tmp_path / "watch.log", cluster.env)
    with ending(process):
        forwarder = until("a forward", lambda: (cluster.folder / "forward.pid").exists() and cluster.forwarder)
        process.send(number)
        process.wait(20)
        until("it is gone", lambda: gone(forwarder), 10)


def test_a_hub_without_tls_and_token_needs_no_secrets() -> None:
    plain = pod(tls=False)
    plain["spec"]["volumes"] = []
    found = found_of(service(), plain)
    assert (found.tls, found.token, found.ca, found.port) == (False, None, None, 8480)
