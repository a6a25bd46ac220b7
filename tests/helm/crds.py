"""Schemas of the custom resources that the chart makes, as far as it uses them, from the API references of the
Prometheus operator (monitoring.coreos.com/v1) and cert-manager (cert-manager.io/v1). What is not here is not used."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {
    "type": "string",
    "pattern": "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$",
}
_GO_DURATION = {"type": "string", "pattern": "^([0-9]+(h|m|s))+$"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


_KEY = _object(("key",), name=_TEXT, key=_TEXT, optional={"type": "boolean"})
_SELECTOR = _object((), matchLabels=_LABELS)
_RELABELINGS = {
    "type": "array",
    "items": _object(
        (), sourceLabels={"type": "array", "items": _TEXT}, targetLabel=_TEXT, replacement=_TEXT, action=_TEXT
    ),
}
_TLS = _object(
    (), ca=_object((), secret=_KEY, configMap=_KEY), serverName=_TEXT, insecureSkipVerify={"type": "boolean"}
)
_SCHEME = {"enum": ["http", "https"]}
_PRIVATE_KEY = _object(
    (),
    algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
    size={"type": "integer"},
    rotationPolicy={"enum": ["Never", "Always"]},
)
_ISSUER = _object(("name",), name=_TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}, group=_TEXT)

_SPECS = {
    ("monitoring.coreos.com/v1", "PodMonitor"): _object(
        ("selector", "podMetricsEndpoints"),
        selector=_SELECTOR,
        podMetricsEndpoints={
            "type": "array",
            "minItems": 1,
            "items": _object((), port=_TEXT, interval=_DURATION, scheme=_SCHEME, path=_TEXT, relabelings=_RELABELINGS),
        },
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _object(
        ("selector", "endpoints"),
        selector=_SELECTOR,
        endpoints={
            "type": "array",
            "minItems": 1,
            "items": _object(
                (),
                port=_TEXT,
                interval=_DURATION,
                scheme=_SCHEME,
                authorization=_object((), type=_TEXT, credentials=_KEY),
                tlsConfig=_TLS,
                relabelings=_RELABELINGS,
            ),
        },
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        (),
        groups={
            "type": "array",
            "items": _object(
                ("name",),
                name=_TEXT,
                interval=_DURATION,
                rules={
                    "type": "array",
                    "items": _object(
                        ("expr",), alert=_TEXT, expr=_TEXT, labels=_LABELS, annotations=_LABELS, **{"for": _DURATION}
                    ),
                },
            ),
        },
    ),
    ("cert-manager.io/v1", "Issuer"): {
        **_object((), selfSigned=_object(), ca=_object(("secretName",), secretName=_TEXT)),
        "minProperties": 1,
        "maxProperties": 1,
    },
    ("cert-manager.io/v1", "Certificate"): _object(
        ("secretName", "issuerRef"),
        secretName=_TEXT,
        issuerRef=_ISSUER,
        isCA={"type": "boolean"},
        commonName={"type": "string", "maxLength": 64},
        dnsNames={"type": "array", "items": _TEXT, "minItems": 1},
        ipAddresses={"type": "array", "items": _TEXT},
        duration=_GO_DURATION,
        renewBefore=_GO_DURATION,
        usages={
            "type": "array",
            "items": {"enum": ["server auth", "client auth", "digital signature", "key encipherment"]},
        },
        privateKey=_PRIVATE_KEY,
    ),
}

SCHEMAS = {
    which: _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": which[0]},
        kind={"const": which[1]},
        metadata=_object(("name", "namespace"), name=_TEXT, namespace=_TEXT, labels=_LABELS, annotations=_LABELS),
        spec=spec,
    )
    for which, spec in _SPECS.items()
}
"""Schema by apiVersion and kind."""
