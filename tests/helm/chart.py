"""The chart, rendered: what the tests of this folder share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "helm" / "nodetap"
NAMESPACE = "observe"
Object = dict[str, Any]


def _find_helm() -> str | None:
    """Helm 4 from the path, or as `make helm` puts it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodetap"
    for found in (shutil.which("helm"), *sorted(map(str, cache.glob("helm-v4.*")), reverse=True)):
        if found and subprocess.run([found, "version", "--short"], capture_output=True, text=True).stdout.startswith(
            "v4"
        ):
            return found
    return None


HELM = _find_helm()
needs_helm = pytest.mark.skipif(HELM is None, reason="needs Helm 4 (`make helm` builds it where there is Go)")


def helm(*args: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *args], capture_output=True, text=True, timeout=120)


def template(values: Object, release: str = "tap") -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        return helm("template", release, str(CHART), "--namespace", NAMESPACE, "--values", file.name)


@cache
def _rendered(values: str) -> str:
    done = template(json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(values: Object) -> list[Object]:
    """Every object that these values make."""
    return [each for each in yaml.safe_load_all(_rendered(json.dumps(values, sort_keys=True))) if each]


def refused(values: Object) -> str:
    """Why these values are refused."""
    done = template(values)
    assert done.returncode != 0, "rendered all the same"
    return done.stderr


def one(objects: list[Object], kind: str, end: str = "") -> Object:
    """The only object of its kind whose name ends so."""
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(end)]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def pods(objects: list[Object]) -> list[tuple[str, Object]]:
    """(labels' owner, pod spec) of everything that runs."""
    found = []
    for each in objects:
        if each["kind"] == "Pod":
            found.append((each["metadata"]["name"], each["spec"]))
        elif each["kind"] in ("DaemonSet", "StatefulSet"):
            found.append((each["metadata"]["name"], each["spec"]["template"]["spec"]))
    return found


ALL_MONITORS = {
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "disabled": ["NodetapClockOff"]},
    "dashboard": {"enabled": True, "annotations": {"grafana_folder": "network"}},
}

SETS: dict[str, Object] = {
    "defaults": {},
    "everything watched": ALL_MONITORS,
    "spool and recorder on the node": {
        "agent": {"spool": {"type": "hostPath", "bytes": 4 << 30}, "recorder": {"enabled": True}, "drainTimeout": 45.5}
    },
    "no spool, loopback metrics": {
        "agent": {"spool": {"type": "none"}, "metrics": {"address": "loopback", "port": 19470}}
    },
    "a busy node": {
        **ALL_MONITORS,
        "agent": {
            "captureWorkers": 3,
            "ringBytes": 268_435_456,
            "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
            "l7": "fast",
            "promisc": True,
        },
    },
    "some of what passes": {
        "agent": {
            "interfaces": ["eth0", "cali*"],
            "exclude": ["docker0"],
            "filter": "not (port 22) and not host 10.0.0.1",
            "urlQuery": "keep",
            "snaplen": 512,
            "maxUnavailable": 3,
            "config": {"NODETAP_ECHO_INTERVAL": "5"},
            "logLevel": "debug",
        }
    },
    "cert-manager, a CA of the release": {**ALL_MONITORS, "tls": {"mode": "certManager", "names": ["tap.example.org"]}},
    "cert-manager, an issuer of the cluster": {
        **ALL_MONITORS,
        "tls": {
            "mode": "certManager",
            "systemCAs": True,
            "certManager": {"issuerRef": {"name": "public", "kind": "ClusterIssuer"}},
        },
    },
    "secrets of ours": {
        **ALL_MONITORS,
        "token": {"existingSecret": "ours", "key": "hub-token", "agents": {"existingSecret": "ours-agents"}},
        "tls": {"mode": "existing", "existingSecret": "ours-tls"},
    },
    "service accounts": {**ALL_MONITORS, "token": {"agents": {"mode": "serviceAccount"}}},
    "three hubs over ClickHouse": {
        "hub": {
            "replicas": 3,
            "clickhouse": {
                "url": "clickhouse://nodetap@ch-0.ch,ch-1.ch/nodetap?cluster=main",
                "passwordSecret": "clickhouse",
                "passwordKey": "nodetap",
            },
        }
    },
    "in clear": {**ALL_MONITORS, "tls": {"mode": "off"}},
    "a fence": {
        "networkPolicy": {
            "enabled": True,
            "nodeCIDRs": ["10.0.0.0/16", "fd00::/64"],
            "people": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        }
    },
    "IPv6": {"hub": {"listen": "::", "service": {"type": "LoadBalancer"}}},
    "agents alone": {
        "hub": {"enabled": False},
        "agent": {"hubs": ["wss://hub.example.org:8470", "wss://hub2.example.org:8470"]},
        "token": {"existingSecret": "ours"},
        "tls": {"mode": "existing", "existingSecret": "ours-ca"},
    },
    "a hub alone": {"agent": {"enabled": False}, "hub": {"retainBytes": 500 << 30, "retainDays": 30}},
    "limits of ours": {
        "hub": {"answers": {"rows": 1_000_000, "bytes": 1 << 30, "seconds": 60.5}, "clientRate": 0.5},
        "agent": {"allowCapture": True},
    },
    "no volume, no rights": {
        "hub": {"persistence": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
        "names": {"enabled": False},
        "serviceAccounts": {"hub": {"create": False}, "agent": {"create": False, "name": "theirs"}},
        "agent": {"priorityClass": {"create": False, "name": "system-node-critical"}},
    },
    "placed with care": {
        "fullnameOverride": "a-name-that-is-much-longer-than-it-should-ever-be-for-anything",
        "commonLabels": {"team": "network"},
        "imagePullSecrets": [{"name": "registry"}],
        "hub": {
            "persistence": {"existingClaim": "old"},
            "image": {"repository": "registry.example.org/hub", "digest": "sha256:" + "a" * 64},
            "priorityClassName": "high",
            "tolerations": [{"key": "infra", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [],
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        },
        "agent": {
            "image": {"tag": "1.2.3"},
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        },
    },
}
"""Values that the chart is rendered with, by what they are about."""
