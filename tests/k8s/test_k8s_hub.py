"""A hub that watches a cluster: names in the store and in answers, agents let in by their service accounts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import SECOND, deleted, finished, node, pod, running, service
from numbered import write_pcap
from procs import ROOT, Agent, Hub, ending, environment, program, until
from server import ApiServer
from tokens import good, token

FRAMES = 400


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    made = ApiServer()
    now = time.time_ns()
    old = now - 3600 * SECOND
    made.put("nodes", node("n1", old, "192.168.0.1", "10.0.0.0/24"))
    made.put("services", service("db", old, "10.96.0.1", "shop"))
    web = pod("web-5d4f8c-x", old, namespace="shop", node="n1", owner=("ReplicaSet", "web-5d4f8c"),
              labels={"pod-template-hash": "5d4f8c"})  # fmt: skip
    made.put("pods", running(web, "10.0.0.1", old, old))
    made.put(
        "pods",
        running(pod("db-0", old, namespace="shop", node="n1", owner=("StatefulSet", "db")), "10.0.0.2", old, old),
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def hub(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("k8s")
    server.tokens[agents_token(folder)] = good()
    made = Hub(
        folder, "--kubernetes", server.url, "--agent-auth", "tokenreview", "--agent-account", "watch/nodetap-agent"
    )
    with ending(made):
        made.ready()
        assert replay(made, folder) == 0
        yield made


def agents_token(folder: Path) -> str:
    made = token(time.time() + 3600)
    (folder / "token").write_text(made)
    return made


def replay(hub: Hub, folder: Path, name: str = "replay", patience: int = 30, at: float = 0.0) -> int:
    """Replay frames of just now, or of `at`; the agent's exit code."""
    capture = write_pcap(folder / f"{name}.pcap", FRAMES, start_s=int(at or time.time()) - 3)
    agent = Agent(folder, "replay", str(capture), "--hub", hub.ws, "--token-file", str(folder / "token"),
                  "--node", "n1", "--connect-timeout", str(patience), name=name)  # fmt: skip
    with ending(agent):
        return agent.wait(90)


def test_rows_have_names(hub: Hub) -> None:
    rows = hub.rows("--pod", "db-0")
    assert len(rows) == FRAMES
    names = {key: value for key, value in rows[0].items() if key.startswith("k8s.")}
    assert names == {
        "k8s.src.namespace": "shop", "k8s.src.pod": "web-5d4f8c-x", "k8s.src.workload": "web", "k8s.src.node": "n1",
        "k8s.dst.namespace": "shop", "k8s.dst.pod": "db-0", "k8s.dst.workload": "db", "k8s.dst.node": "n1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (["--workload", "web"], True),
        (["--namespace", "shop", "--not"], False),
        (["--service", "db"], False),
        (["k8s.pod", "==", "db-0"], True),
        (["all", "k8s.pod", "==", "db-0"], False),
        (["k8s.pod", "!=", "db-0"], False),  # of all, as Wireshark has it
        (["any", "k8s.pod", "!=", "db-0"], True),
        (["k8s.src.pod", "==", "db-0"], False),
        (["k8s.src.reason"], False),
        (['k8s.workload matches "^we"'], True),
        (["not", "k8s.service"], True),
        (["k8s.service"], False),
        (['k8s.node in {"n1", "n2"}'], True),
        (["lower(k8s.pod)", "contains", "db"], True),
    ],
)
def test_filters_and_flags(hub: Hub, words: list[str], some: bool) -> None:
    assert bool(hub.rows(*words)) == some


def test_flows_are_summed_by_workload(hub: Hub) -> None:
    done = hub.cli("flows", "--by", "k8s.src.workload,k8s.dst.workload", "--since", "all", "-o", "ndjson")
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (row["k8s.src.workload"], row["k8s.dst.workload"]) == ("web", "db")
    assert row["flow.packets"] + row["flow.packets_rev"] == FRAMES


@pytest.mark.parametrize(
    ("by", "ends"),
    [("workload", ("shop/web", "shop/db")), ("pod", ("shop/web-5d4f8c-x", "shop/db-0")),
     ("namespace", ("shop", "shop")), ("node", ("node n1", "node n1")), ("address", ("10.0.0.1", "10.0.0.2"))],
)  # fmt: skip
def test_map_by_names(hub: Hub, by: str, ends: tuple[str, str]) -> None:
    line = hub.cli("map", "--by", by, "--since", "all").stdout.splitlines()[1]
    assert line.startswith(ends[0])
    assert f"→  {ends[1]}" in line
    drawn = hub.cli("map", "--by", by, "--since", "all", "-o", "dot").stdout
    assert f'label="{ends[1]}"' in drawn


def test_without_kubernetes_nothing_of_it_is_loaded() -> None:
    code = (
        "import sys, hub.serve; print(sorted(name for name in sys.modules if name.startswith(('hub.k8s', 'urllib3'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.strip() == "['hub.k8s', 'hub.k8s.options']"


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--kubernetes", "in-cluster"], "neither auto nor off nor a URL"),
        (["--agent-auth", "tokenreview"], "--agent-account NAMESPACE/NAME"),
        (["--agent-auth", "tokenreview", "--agent-account", "x"], "is not NAMESPACE/NAME"),
        (["--agent-auth", "tokenreview", "--agent-account", "a/b"], "needs an API server"),
    ],
)
def test_options_that_do_not_go_together(args: list[str], word: str, tmp_path: Path) -> None:
    command = program("hub.serve", "serve", "--store", f"chdb://{tmp_path}/store", *args)
    env = environment()
    env.pop("KUBERNETES_SERVICE_HOST", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode == 2
    assert word in done.stderr


def test_raw_frames_have_no_names(hub: Hub) -> None:
    done = hub.cli("pcap", "k8s.pod", "==", "db-0", "-w", str(hub.folder / "x.pcapng"), check=False)
    assert done.returncode == 2
    assert "choose them by address" in done.stderr


def test_names_are_in_the_metrics(hub: Hub) -> None:
    assert hub.metric("nodetap_hub_names_intervals") >= 4
    assert 0 <= hub.metric("nodetap_hub_names_behind_seconds") < 60


def test_a_token_that_is_not_an_agents_is_refused(hub: Hub, server: ApiServer, tmp_path: Path) -> None:
    server.tokens[agents_token(tmp_path)] = good("watch:default")
    assert replay(hub, tmp_path, patience=3) != 0
    assert any("no agent's account" in event.get("reason", "") for event in hub.events)


def test_a_pod_that_ended_is_still_named_in_rows_of_its_time(hub: Hub, server: ApiServer) -> None:
    now = time.time_ns()
    old = now - 3600 * SECOND
    gone = running(pod("db-0", old, namespace="shop", node="n1", owner=("StatefulSet", "db")), "10.0.0.2", old, old)
    last = finished(deleted(gone, now, 1), now)
    server.put("pods", last)
    server.delete("pods", last)
    young = pod("other", now + 20 * SECOND, namespace="shop", node="n1")
    server.put("pods", running(young, "10.0.0.2", now + 20 * SECOND, now + 21 * SECOND))
    until("both are known", lambda: hub.metric("nodetap_hub_names_intervals") >= 5)
    before = len(hub.rows("--pod", "db-0"))
    assert replay(hub, hub.folder, "second", at=now / SECOND) == 0
    assert len(hub.rows("--pod", "db-0")) == before + FRAMES
    assert hub.rows("--pod", "other") == []
