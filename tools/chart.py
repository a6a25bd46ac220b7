"""Writes what the chart has beside its templates: README and schema of the values, and the dashboard.

`values.yaml` says what there is, its comments what it means, `RULES` here what may stand there beyond a type.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from dashboard import dashboard

CHART = Path(__file__).resolve().parent.parent / "helm" / "nodetap"

_POSITIVE = {"type": "integer", "minimum": 1}
_SECONDS = {"type": "number", "minimum": 0.1, "maximum": 3600}
_TEXTS = {"type": "array", "items": {"type": "string", "minLength": 1}}
_QUANTITY = {"type": ["string", "integer"], "pattern": r"^[0-9.]+([EPTGMk]i?|m)?$"}
_LEVEL = {"enum": ["debug", "info", "warning", "error"]}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_DIGEST = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_ENVIRONMENT = {
    "type": "object",
    "propertyNames": {"pattern": "^NODETAP_[A-Z0-9_]+$"},
    "additionalProperties": {"type": "string"},
}

RULES: dict[str, dict[str, Any]] = {
    "agent.hubs": {"type": "array", "items": {"type": "string", "pattern": "^wss?://[^/ ,]+$"}},
    "agent.interfaces": _TEXTS,
    "agent.exclude": _TEXTS,
    "agent.l7": {"enum": ["off", "fast", "all"]},
    "agent.urlQuery": {"enum": ["drop", "keep"]},
    "agent.snaplen": {"type": "integer", "minimum": 64, "maximum": 262144},
    "agent.ringBytes": {"type": "integer", "minimum": 1 << 20},
    "agent.captureWorkers": {"type": "integer", "minimum": 1, "maximum": 64},
    "agent.bufferBytes": {"type": "integer", "minimum": 1 << 20},
    "agent.stallTimeout": {"type": "number", "minimum": 0.5, "maximum": 3600},
    "agent.drainTimeout": _SECONDS,
    "agent.spool.type": {"enum": ["emptyDir", "hostPath", "none"]},
    "agent.spool.bytes": {"type": "integer", "minimum": 1 << 20},
    "agent.spool.hostPath": {"type": "string", "pattern": "^/"},
    "agent.recorder.bytes": {"type": "integer", "minimum": 1 << 20},
    "agent.recorder.hostPath": {"type": "string", "pattern": "^/"},
    "agent.metrics.address": {"enum": ["node", "loopback"]},
    "agent.metrics.port": _PORT,
    "agent.logLevel": _LEVEL,
    "agent.maxUnavailable": {"type": ["integer", "string"], "pattern": "^[0-9]+%?$", "minimum": 1},
    "agent.capabilities": {
        "type": "array",
        "items": {"type": "string", "pattern": "^[A-Z_]+$"},
        "contains": {"const": "NET_RAW"},
    },
    "agent.priorityClass.value": {"type": "integer", "maximum": 1_000_000_000},
    "agent.config": _ENVIRONMENT,
    "hub.config": _ENVIRONMENT,
    "hub.replicas": _POSITIVE,
    "hub.clickhouse.url": {"type": "string", "pattern": r"^(clickhouses?://[^:/@]+@[^/@]+/\w+(\?.*)?)?$"},
    "hub.clickhouse.passwordKey": {"type": "string", "minLength": 1},
    "hub.retainDays": _POSITIVE,
    "hub.retainBytes": {"type": ["integer", "null"], "minimum": 1},
    "hub.answers.rows": {"type": ["integer", "null"], "minimum": 1},
    "hub.answers.bytes": {"type": ["integer", "null"], "minimum": 1},
    "hub.answers.seconds": {"type": ["number", "null"], "minimum": 1},
    "hub.clientRate": {"type": ["number", "null"], "minimum": 0.1},
    "hub.persistence.size": _QUANTITY,
    "hub.persistence.accessModes": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "pattern": "^ReadWriteOnce(Pod)?$"},
    },
    "hub.tmpSize": _QUANTITY,
    "hub.logLevel": _LEVEL,
    "hub.startupSeconds": {"type": "integer", "minimum": 5},
    "hub.terminationGracePeriodSeconds": {"type": "integer", "minimum": 30},
    "hub.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "hub.service.port": _PORT,
    "tls.mode": {"enum": ["own", "certManager", "existing", "off"]},
    "tls.names": _TEXTS,
    "tls.days": _POSITIVE,
    "token.agents.mode": {"enum": ["token", "serviceAccount"]},
    "networkPolicy.nodeCIDRs": {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]+$"}},
    "networkPolicy.people": _OBJECTS,
    "prometheusRule.disabled": _TEXTS,
}
for _owner in ("token", "token.agents", "token.reader"):
    RULES[f"{_owner}.key"] = {"type": "string", "minLength": 1}
for _component in ("agent", "hub"):
    RULES[f"{_component}.image.digest"] = _DIGEST
    RULES[f"{_component}.image.pullPolicy"] = {"enum": ["Always", "IfNotPresent", "Never"]}
FREE = ("resources", "nodeSelector", "labels", "issuerRef")
"""Maps whose keys are not ours."""


def comments_of(text: str) -> dict[str, str]:
    """What is said of each value, by its path: the comment that stands right above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if comment := re.match(r"\s*# ?(.*)", line):
            above.append(comment[1])
            continue
        if key := re.match(r"( *)([A-Za-z]\w*):", line):
            path = [*(p for p in path if p[0] < len(key[1])), (len(key[1]), key[2])]
            found[".".join(name for _, name in path)] = " ".join(above)
        above = []
    return found


def leaves(values: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Every value that somebody may set, with its default."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        inner = isinstance(value, dict) and value and key not in FREE
        found += leaves(value, here) if inner else [(here, value)]
    return found


def schema_of(values: dict[str, Any], said: dict[str, str], path: str = "") -> dict[str, Any]:
    """A JSON schema of these values that knows no others."""
    properties: dict[str, Any] = {}
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value and key not in FREE:
            properties[key] = schema_of(value, said, here)
        else:
            properties[key] = RULES.get(here) or _by_type(value)
        if said.get(here):
            properties[key] = {"description": said[here], **properties[key]}
    if not path:
        properties["global"] = {"type": "object"}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _by_type(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return _OBJECTS
    kinds = {bool: "boolean", int: "integer", str: "string", dict: "object"}
    return {"type": kinds[type(value)]}


def readme(values: dict[str, Any], said: dict[str, str]) -> str:
    """The chart's page."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, default in leaves(values):
        meaning = said.get(path) or COMMON[path.rsplit(".", 1)[-1]]
        rows.append(f"| `{path}` | `{json.dumps(default, ensure_ascii=False)}` | {meaning} |")
    return _PAGE.replace("VALUES", "\n".join(rows))


COMMON = {
    "enabled": "Whether there is one.",
    "pullPolicy": "When the image is pulled.",
    "size": "Its size.",
    "port": "Its port.",
    "create": "Make it.",
    "annotations": "Its annotations.",
    "labels": "Its labels, as your Prometheus or Grafana selects by them.",
    "interval": "How often.",
    "value": "Its value.",
    "podAnnotations": "Annotations of the pods.",
    "podLabels": "Labels of the pods.",
    "nodeSelector": "Nodes to run on.",
    "tolerations": "Taints to tolerate.",
    "affinity": "As in a pod.",
    "topologySpreadConstraints": "As in a pod.",
    "extraVolumes": "More volumes.",
    "extraVolumeMounts": "Where they are mounted.",
    "duration": "For how long a certificate is valid.",
    "renewBefore": "How long before its end it is renewed.",
    "priorityClassName": "An existing priority class.",
    "terminationGracePeriodSeconds": "Seconds that a stop may take; the hub drains for 15.",
}
"""What needs no comment in `values.yaml`, by the last word of its path."""

_PAGE = """<!-- Written by tools/chart.py (`make docs`): do not edit. -->

# The chart `nodetap`

Agents on every node, a hub, and what belongs to them. How to install it, and what to think of before, stands in
[docs/kubernetes.md](../../docs/kubernetes.md).

```sh
helm install nodetap helm/nodetap --namespace nodetap --create-namespace
```

`values.schema.json` refuses values that do not exist or have a wrong type.

## Values

VALUES
"""


def files() -> dict[str, str]:
    """Every file that is written, by its path in the chart."""
    text = (CHART / "values.yaml").read_text()
    values, said = yaml.safe_load(text), comments_of(text)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema_of(values, said)}
    return {
        "README.md": readme(values, said),
        "values.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        "files/dashboard.json": json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for name, content in files().items():
        (CHART / name).write_text(content)
