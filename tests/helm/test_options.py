"""What the manifests tell the programs is what the programs understand: every option, parsed by the programs."""

from __future__ import annotations

import re
from typing import Any
from unittest import mock

import click
import pytest

from agent.cli import cli as agent_cli
from agent.cli.link_options import check_hubs
from hub.serve import main as hub_cli
from hub.store.address import servers_of
from tests.helm.chart import SETS, Object, needs_helm, one, render

pytestmark = needs_helm
INSIDE = {"NODETAP_HUB_URL", "NODETAP_TLS_CA"}
"""What the hub's container has for `nodetap` in it."""
FIELDS = {"spec.nodeName": "node-1", "status.hostIP": "10.0.0.7", "status.podIP": "10.0.0.8"}


def environment_of(objects: list[Object], container: Object) -> dict[str, str]:
    """The variables of a container, as the kubelet would set them."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for each in container["env"]:
        value = each.get("value") or FIELDS[each["valueFrom"]["fieldRef"]["fieldPath"]]
        found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda m: found[m[1]], value)
    return found


def parse(group: click.Group, args: list[str], env: dict[str, str]) -> tuple[dict[str, Any], set[str]]:
    """What a program takes these for, and the variables it knows. Raises click.UsageError."""
    with mock.patch.dict("os.environ", env, clear=True):
        outer = group.make_context("program", list(args))
        name, command, rest = group.resolve_command(outer, args)
        assert command is not None
        inner = command.make_context(name, rest, parent=outer)
    known = {str(p.envvar) for c in (group, command) for p in c.params if isinstance(p, click.Option) and p.envvar}
    return outer.params | inner.params, known


def parsed(values: Object, kind: str) -> dict[str, Any]:
    objects = render(values)
    owner = {"agent": "DaemonSet", "hub": "StatefulSet"}[kind]
    container = one(objects, owner)["spec"]["template"]["spec"]["containers"][0]
    env = environment_of(objects, container)
    options, known = parse({"agent": agent_cli, "hub": hub_cli}[kind], container["args"], env)
    told = {name for name in env if name.startswith("NODETAP_")} - (INSIDE if kind == "hub" else set())
    assert told <= known, f"{told - known} are no options of the {kind}"
    return options


@pytest.mark.parametrize("values", [v for v in SETS.values() if v.get("agent", {}).get("enabled", True)])
def test_the_agent_understands_what_it_is_told(values: Object) -> None:
    options = parsed(values, "agent")
    check_hubs(options["hubs"], options["insecure"])
    assert options["node"] == "node-1"
    assert options["metrics"][0] in ("10.0.0.7", "127.0.0.1")
    assert options["log_format"] == "json"


@pytest.mark.parametrize("values", [v for v in SETS.values() if v.get("hub", {}).get("enabled", True)])
def test_the_hub_understands_what_it_is_told(values: Object) -> None:
    options = parsed(values, "hub")
    assert options["agents"][0] == options["api"][0] in ("0.0.0.0", "::")
    secured = all(options[name] for name in ("tls_cert", "tls_key", "token_file"))
    assert secured or options["insecure"]  # else it refuses to start


def test_values_arrive_as_they_were_meant() -> None:
    options = parsed(SETS["some of what passes"], "agent")
    assert options["bpf"] == "not (port 22) and not host 10.0.0.1"
    assert options["interfaces"] == ("eth0,cali*",)
    assert options["exclude"] == ("docker0",)
    assert (options["snaplen"], options["url_query"], options["echo_interval"]) == (512, "keep", 5.0)
    busy = parsed(SETS["a busy node"], "agent")
    assert (busy["capture_workers"], busy["ring_bytes"], busy["promisc"], busy["l7"]) == (3, 268_435_456, True, "fast")
    kept = parsed(SETS["spool and recorder on the node"], "agent")
    assert (kept["spool_bytes"], str(kept["recorder"])) == (4 << 30, "/var/lib/nodetap/recorder")
    alone = parsed(SETS["agents alone"], "agent")
    assert alone["hubs"] == ("wss://hub.example.org:8470", "wss://hub2.example.org:8470")
    assert parsed(SETS["no volume, no rights"], "hub")["kubernetes"] == "off"
    reviewed = parsed(SETS["service accounts"], "hub")
    assert (reviewed["kubernetes"], reviewed["agent_auth"]) == ("auto", "tokenreview")
    assert reviewed["agent_accounts"] == ("observe/tap-nodetap-agent",)
    several = parsed(SETS["three hubs over ClickHouse"], "hub")
    assert several["advertise_api"] == "https://10.0.0.8:8480"
    servers = servers_of(several["store"].partition("&")[0])
    assert (servers.hosts, servers.user, servers.cluster) == ((("ch-0.ch", 8123), ("ch-1.ch", 8123)), "nodetap", "main")
    asked = parsed(SETS["limits of ours"], "hub")
    assert [asked[f"answer_{of}"] for of in ("rows", "bytes", "seconds")] == [1_000_000, 1 << 30, 60.5]
    assert (asked["client_rate"], asked["token_file"]) == (0.5, "/etc/nodetap/token/roles")
    assert parsed(SETS["limits of ours"], "agent")["allow_capture"]
    assert not parsed({}, "agent")["allow_capture"]
    hub = parsed(SETS["a hub alone"], "hub")
    assert (hub["retain_bytes"], hub["retain_days"], hub["store"]) == (500 << 30, 30, "chdb:///data/store")


def test_an_option_that_is_none_is_found() -> None:
    with pytest.raises(AssertionError, match="NODETAP_NONSENSE"):
        parsed({"agent": {"config": {"NODETAP_NONSENSE": "1"}}}, "agent")
    with pytest.raises(click.UsageError):
        parsed({"agent": {"config": {"NODETAP_ECHO_INTERVAL": "soon"}}}, "agent")
