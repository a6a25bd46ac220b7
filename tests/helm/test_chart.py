"""The chart over many values: valid for Kubernetes, and as an operator would have it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from kubernetes_validate.utils import all_versions, validate

import protocol
from hub.cli.kubectl import found_of
from hub.serve import DRAIN_TIMEOUT
from hub.tokens import Tokens
from tests.helm.chart import (
    ALL_MONITORS,
    CHART,
    NAMESPACE,
    ROOT,
    SETS,
    Object,
    helm,
    needs_helm,
    one,
    pods,
    refused,
    render,
)
from tests.helm.crds import SCHEMAS

pytestmark = needs_helm
VERSIONS = all_versions()[-3:]
CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding", "PriorityClass")


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_lint_has_nothing_to_say(values: Object, tmp_path: Path) -> None:
    (file := tmp_path / "values.json").write_text(json.dumps(values))
    done = helm("lint", "--strict", str(CHART), "--values", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_has_the_version_of_the_programs() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == protocol.VERSION


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_every_object_is_valid(values: Object) -> None:
    objects = render(values)
    assert objects
    for each in objects:
        if schema := SCHEMAS.get((each["apiVersion"], each["kind"])):
            jsonschema.validate(each, schema)
            continue
        for version in VERSIONS:
            validate(each, version, strict=True)


def test_the_oldest_version_that_is_promised_knows_every_object() -> None:
    oldest = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"].removeprefix(">=").removesuffix("-0")
    for each in render({}):
        validate(each, oldest, strict=True)


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_names_are_unique_and_short_enough(values: Object) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in render(values)]
    assert len(names) == len(set(names))
    for kind, name in names:
        assert len(name) <= 52 or kind in CLUSTER_WIDE, name  # of which labels and pods' names are made


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_nothing_has_more_rights_than_it_needs(values: Object) -> None:
    for name, spec in pods(render(values)):
        assert not spec.get("hostPID")
        assert not spec.get("hostIPC")
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        agent = name.endswith("-agent")
        assert bool(spec.get("hostNetwork")) is agent
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["privileged"] is False
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"]["drop"] == ["ALL"]
            assert rights["capabilities"].get("add", []) == (["NET_RAW"] if agent else [])
            assert agent or spec["securityContext"]["runAsNonRoot"] is True
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert "cpu" not in container["resources"]["limits"]  # who is throttled drops packets
        needs_api = name.endswith("-hub") and values.get("names", {}).get("enabled", True)
        assert spec["automountServiceAccountToken"] is needs_api


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_no_secret_is_where_many_can_read_it(values: Object) -> None:
    objects = render(values)
    secrets = [
        base64.b64decode(value).decode()
        for each in objects
        if each["kind"] == "Secret"
        for key, value in each["data"].items()
        if not key.endswith(".crt")
    ]
    elsewhere = yaml.safe_dump([each for each in objects if each["kind"] != "Secret"])
    for secret in secrets:
        assert not [word for word in secret.split() if len(word) > 20 and word in elsewhere]
    for _, spec in pods(objects):
        for container in spec["containers"]:
            assert not [e for e in container.get("env", []) if "secretKeyRef" in e.get("valueFrom", {})]
            told = [arg for arg in container.get("args", []) if not arg.startswith("--token-file=/")]
            assert "token" not in " ".join(told)
        for mount in (m for c in spec["containers"] for m in c["volumeMounts"]):
            assert "subPath" not in mount  # a file of its own is never renewed


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_only_the_hub_holds_keys(values: Object) -> None:
    for name, spec in pods(render(values)):
        keys = [
            item["key"]
            for volume in spec["volumes"]
            if "secret" in volume
            for item in volume["secret"].get("items", [{"key": "*"}])
        ]
        assert "*" not in keys
        assert ("tls.key" in keys) is (name.endswith("-hub") and values.get("tls", {}).get("mode") != "off")


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_selectors_find_what_they_are_for(values: Object) -> None:
    objects = render(values)
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in objects
        if each["kind"] in ("DaemonSet", "StatefulSet")
    ]
    services = [each["metadata"]["labels"] for each in objects if each["kind"] == "Service"]

    def selected(selector: dict[str, str], among: list[dict[str, str]]) -> int:
        return sum(selector.items() <= each.items() for each in among)

    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] in ("DaemonSet", "StatefulSet", "PodDisruptionBudget", "PodMonitor"):
            assert selected(spec["selector"]["matchLabels"], labels) == 1
        elif each["kind"] == "NetworkPolicy":
            assert selected(spec["podSelector"]["matchLabels"], labels) == 1
        elif each["kind"] == "Service":
            assert selected(spec["selector"], labels) == 1
        elif each["kind"] == "ServiceMonitor":
            assert selected(spec["selector"]["matchLabels"], services) == 1
    ports = {p["name"] for _, s in pods(objects) for c in s["containers"] for p in c.get("ports", [])}
    named = [p["targetPort"] for each in objects if each["kind"] == "Service" for p in each["spec"]["ports"]]
    named += [
        e["port"] for each in objects if each["kind"] == "PodMonitor" for e in each["spec"]["podMetricsEndpoints"]
    ]
    assert set(named) <= ports


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_what_is_mounted_is_there(values: Object) -> None:
    objects = render(values)
    made = {(each["kind"], each["metadata"]["name"]) for each in objects}
    made |= {("Secret", each["spec"]["secretName"]) for each in objects if each["kind"] == "Certificate"}
    token = values.get("token", {})
    theirs = {each.get("existingSecret") for each in (token, token.get("agents", {}), values.get("tls", {}))}
    theirs.add(values.get("hub", {}).get("clickhouse", {}).get("passwordSecret"))
    for name, spec in pods(objects):
        volumes = {volume["name"] for volume in spec["volumes"]}
        if name.endswith("-hub"):
            claims = one(objects, "StatefulSet")["spec"].get("volumeClaimTemplates", [])
            volumes |= {claim["metadata"]["name"] for claim in claims}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        for volume in spec["volumes"]:
            if "secret" in volume and volume["secret"]["secretName"] not in theirs:
                assert ("Secret", volume["secret"]["secretName"]) in made
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_pods_have_time_to_drain(values: Object) -> None:
    objects = render(values)
    for name, spec in pods(objects):
        if name.endswith("-agent"):
            drain = float(one(objects, "ConfigMap", "-agent")["data"]["NODETAP_DRAIN_TIMEOUT"])
            assert spec["terminationGracePeriodSeconds"] >= drain + 9
        if name.endswith("-hub"):
            assert spec["terminationGracePeriodSeconds"] >= 2 * DRAIN_TIMEOUT


def _probes(spec: Object) -> dict[str, Any]:
    container = spec["containers"][0]
    return {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_probes_ask_where_the_programs_answer(values: Object) -> None:
    objects = render(values)
    for name, spec in pods(objects):
        if name.endswith("-test"):
            continue
        probes = _probes(spec)
        assert [probe["path"] for probe in probes.values()] == ["/healthz", "/healthz", "/readyz"]
        container = spec["containers"][0]
        if name.endswith("-agent"):
            shown = {e["name"]: e["value"] for e in container["env"] if "value" in e}["NODETAP_METRICS"]
            for probe in probes.values():
                assert shown == f"{probe.get('host', '$(HOST_IP)')}:{probe['port']}"
        else:
            scheme = "HTTP" if values.get("tls", {}).get("mode") == "off" else "HTTPS"
            ports = {p["name"]: p["containerPort"] for p in container["ports"]}
            data = one(objects, "ConfigMap", "-hub")["data"]
            for probe in probes.values():
                assert probe["scheme"] == scheme
                assert data["NODETAP_API"].endswith(f":{ports[probe['port']]}")
            assert data["NODETAP_AGENTS"].endswith(f":{ports['agents']}")


def test_the_daemonset_disturbs_no_node() -> None:
    agents = one(render({}), "DaemonSet")["spec"]
    spec = agents["template"]["spec"]
    assert agents["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == one(render({}), "PriorityClass")["metadata"]["name"]
    env = {e["name"]: e.get("valueFrom") for e in spec["containers"][0]["env"]}
    assert env["NODETAP_NODE"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert env["HOST_IP"] == {"fieldRef": {"fieldPath": "status.hostIP"}}


def test_roles_only_look() -> None:
    rules = one(render({}), "ClusterRole")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}
    assert {resource for rule in rules for resource in rule["resources"]} == {"pods", "services", "nodes"}
    assert not [each for each in render(SETS["no volume, no rights"]) if each["kind"].startswith("ClusterRole")]


def test_agents_with_service_accounts_hold_no_secret() -> None:
    objects = render(SETS["service accounts"])
    volumes = {volume["name"]: volume for volume in one(objects, "DaemonSet")["spec"]["template"]["spec"]["volumes"]}
    (source,) = volumes["token"]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == one(objects, "ConfigMap", "-hub")["data"]["NODETAP_AUDIENCE"]
    assert not [volume for volume in volumes.values() if "secret" in volume]
    tokens = _decoded(one(objects, "Secret", "nodetap-token"))
    assert [line.split()[0] for line in tokens["roles"].splitlines()] == ["admin", "read"]
    assert not [each for each in objects if each["metadata"]["name"].endswith("-agent-token")]
    account = one(objects, "ConfigMap", "-hub")["data"]["NODETAP_AGENT_ACCOUNT"]
    assert account == f"{NAMESPACE}/{one(objects, 'DaemonSet')['spec']['template']['spec']['serviceAccountName']}"
    review = one(objects, "ClusterRole")["rules"][-1]
    assert (review["resources"], review["verbs"]) == (["tokenreviews"], ["create"])


def test_hubs_over_clickhouse_have_no_volume_and_no_password_in_sight() -> None:
    objects = render(SETS["three hubs over ClickHouse"])
    hubs = one(objects, "StatefulSet")["spec"]
    assert hubs["replicas"] == 3
    assert "volumeClaimTemplates" not in hubs
    assert _mounted(hubs["template"]["spec"], "clickhouse") == ("clickhouse", ["nodetap"])
    store = one(objects, "ConfigMap", "-hub")["data"]["NODETAP_STORE"]
    assert store.endswith("?cluster=main&password_file=/etc/nodetap/clickhouse/password")
    assert one(objects, "Service", "-hub-agents")["spec"]["publishNotReadyAddresses"] is False
    assert one(render({}), "Service", "-hub-agents")["spec"]["publishNotReadyAddresses"] is True


def test_a_disruption_budget_never_holds_up_a_drain() -> None:
    spec = one(render({}), "PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec


def _decoded(secret: Object) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def test_what_a_node_holds_can_only_send() -> None:
    objects = render(ALL_MONITORS)
    ours, agents = _decoded(one(objects, "Secret", "nodetap-token")), _decoded(one(objects, "Secret", "-agent-token"))
    tokens = Tokens(ours["roles"])
    roles = {name: tokens.holder(f"Bearer {text}") for name, text in (*ours.items(), ("agent", agents["token"]))}
    assert {name: token and token.role for name, token in roles.items()} == {
        "token": "admin", "read": "read", "agent": "agent", "roles": None,
    }  # fmt: skip
    mounted = {name: _mounted(spec, "token") for name, spec in pods(objects)}
    assert mounted["tap-nodetap-agent"] == ("tap-nodetap-agent-token", ["token"])
    assert mounted["tap-nodetap-hub"] == ("tap-nodetap-token", ["token", "roles"])
    assert mounted["tap-nodetap-test"] == ("tap-nodetap-token", ["read"])
    (endpoint,) = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "tap-nodetap-token", "key": "read"}


def _mounted(spec: Object, volume: str) -> tuple[str, list[str]]:
    (secret,) = [each["secret"] for each in spec["volumes"] if each["name"] == volume]
    return secret["secretName"], [item["key"] for item in secret["items"]]


@pytest.mark.parametrize(
    ("values", "token", "ca"),
    [
        ({}, ("tap-nodetap-token", "token"), ("tap-nodetap-hub-tls", "ca.crt")),
        (SETS["secrets of ours"], ("ours", "hub-token"), ("ours-tls", "ca.crt")),
        (SETS["in clear"], ("tap-nodetap-token", "token"), None),
    ],
)
def test_kubectl_nodetap_finds_its_way_in(values: Object, token: tuple[str, str], ca: tuple[str, str] | None) -> None:
    objects = render(values)
    (service,) = [
        each for each in objects
        if each["kind"] == "Service" and each["metadata"]["labels"].get("nodetap/service") == "people"
    ]  # fmt: skip
    found = found_of(service, one(objects, "StatefulSet")["spec"]["template"])
    assert (found.token, found.ca, found.tls, found.port) == (token, ca, ca is not None, 8480)


def test_agents_are_let_in_by_the_addresses_of_nodes() -> None:
    agents, people = one(render(SETS["a fence"]), "NetworkPolicy")["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in agents["from"]] == ["10.0.0.0/16", "fd00::/64"]
    assert "agents" not in [port["port"] for port in people["ports"]]


def test_the_own_certificate_is_signed_for_all_names() -> None:
    objects = render({"tls": {"names": ["tap.example.org"], "days": 30}})
    secret = one(objects, "Secret", "-hub-tls")["data"]
    ca = x509.load_pem_x509_certificate(one(objects, "ConfigMap", "-ca")["data"]["ca.crt"].encode())
    leaf = x509.load_pem_x509_certificate(base64.b64decode(secret["tls.crt"]))
    leaf.verify_directly_issued_by(ca)
    key = load_pem_private_key(base64.b64decode(secret["tls.key"]), None)
    assert key.public_key() == leaf.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {
        f"tap-nodetap-hub.{NAMESPACE}.svc", f"tap-nodetap-hub-agents.{NAMESPACE}.svc.cluster.local",
        "localhost", "tap.example.org",
    } <= set(names.get_values_for_type(x509.DNSName))  # fmt: skip
    assert "127.0.0.1" in {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 30
    hub = one(objects, "ConfigMap", "-agent")["data"]["NODETAP_HUB"]
    assert hub == f"wss://tap-nodetap-hub-agents.{NAMESPACE}.svc:8470"


def test_the_dashboard_and_the_rules_are_those_of_the_files() -> None:
    objects = render(ALL_MONITORS)
    dashboard = one(objects, "ConfigMap", "-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["nodetap.json"]) == json.loads((CHART / "files" / "dashboard.json").read_text())
    given = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    wanted = [{**g, "rules": [r for r in g["rules"] if r["alert"] != "NodetapClockOff"]} for g in given]
    assert one(objects, "PrometheusRule")["spec"]["groups"] == wanted


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"hub": {"replicas": 2}}, "hub.clickhouse.url"),
        ({"hub": {"clickhouse": {"url": "clickhouse://user:secret@host/db"}}}, "url"),
        ({"tls": {"mode": "existing"}}, "tls.existingSecret"),
        ({"hub": {"enabled": False}}, "agent.hubs"),
        ({"hub": {"enabled": False}, "agent": {"hubs": ["wss://h:1"]}}, "token.agents.existingSecret"),
        ({"hub": {"enabled": False}, "agent": {"hubs": ["wss://h:1"]}, "token": {"existingSecret": "t"}}, "tls.mode"),
        ({"token": {"agents": {"mode": "serviceAccount"}}, "names": {"enabled": False}}, "names.enabled"),
        ({"networkPolicy": {"enabled": True}}, "nodeCIDRs"),
        ({"podMonitor": {"enabled": True}, "agent": {"metrics": {"address": "loopback"}}}, "loopback"),
        ({"agent": {"l7": "slow"}}, "l7"),
        ({"agent": {"interface": ["eth0"]}}, "interface"),
        ({"agent": {"capabilities": ["NET_ADMIN"]}}, "capabilities"),
        ({"agent": {"hubs": ["hub:8470"]}}, "hubs"),
        ({"agent": {"config": {"HUB": "x"}}}, "HUB"),
        ({"hub": {"persistence": {"accessModes": ["ReadWriteMany"]}}}, "accessModes"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(values: Object, why: str) -> None:
    assert why in refused(values)


def test_a_field_that_does_not_exist_would_be_found() -> None:
    wrong = json.loads(json.dumps(one(render({}), "DaemonSet")))
    wrong["spec"]["template"]["spec"]["hostNetworks"] = True
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong, VERSIONS[-1], strict=True)


def _mib(quantity: str) -> float:
    units = {"Mi": 1.0, "Gi": 1024.0}
    return float(quantity[:-2]) * units[quantity[-2:]]


def test_resources_are_what_was_measured_and_room_for_the_outbox() -> None:
    live = (ROOT / "docs" / "performance.md").read_text()
    largest = float(re.search(r"^\| RssAnon, largest \| (\d+) MB", live, re.MULTILINE)[1])  # type: ignore[index]
    idle = float(re.search(r"^\| idle: RssAnon \| (\d+) MB", live, re.MULTILINE)[1])  # type: ignore[index]
    agent, data = one(render({}), "DaemonSet"), one(render({}), "ConfigMap", "-agent")["data"]
    resources = agent["spec"]["template"]["spec"]["containers"][0]["resources"]
    outbox = int(data["NODETAP_BUFFER_BYTES"]) / 2**20
    assert idle + outbox < _mib(resources["requests"]["memory"]) < _mib(resources["limits"]["memory"])
    assert 2 * (largest + outbox) < _mib(resources["limits"]["memory"])  # L7, and pages of files, have the other half

    faults = (ROOT / "docs" / "reliability.md").read_text()
    rest, most = map(float, re.search(r"memory (\d+) MiB idle and at most (\d+) MiB", faults).groups())  # type: ignore[union-attr]
    resources = one(render({}), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert rest < _mib(resources["requests"]["memory"])
    assert 2 * most < _mib(resources["limits"]["memory"])  # the engine takes half of it at most
