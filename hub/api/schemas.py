"""JSON schemas of what people send, for the OpenAPI document.

Every value that fits its schema is taken. Where a language is larger than a schema can say (filters, times, what can be
sorted by), the schema is a part of it that is always right, and the reference pages have the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from hub.query.groups import FIGURES
from protocol.schema import fields_of

Schema: TypeAlias = "Mapping[str, Any]"

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0, "maximum": 10**12 - 1}
SECONDS: Schema = {"type": "number", "minimum": 0.1, "maximum": 60}
LAG: Schema = {"type": "number", "minimum": 0, "maximum": 99_999}
LONG_SECONDS: Schema = {"type": "integer", "minimum": 1, "maximum": 99_999}
CURSOR: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,2000}$"}

_DAY = r"(0[1-9]|1[0-9]|2[0-8])"
_TIME = rf"(19|20)[0-9]{{2}}-(0[1-9]|1[0-2])-{_DAY}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{{1,9}})?"
POINT: Schema = {
    "type": "string",
    "pattern": rf"^([0-9]{{1,4}}[smhdw]|all|{_TIME}(Z|[+-]0[0-9]:[0-5][0-9])|-?[0-9]{{1,18}})$",
    "examples": ["15m", "all", "2026-01-31T12:00:00Z", "1700000000000000000"],
}

_COMPARED = "(==|!=|<|<=|>|>=)"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PORT = "(0|[1-9][0-9]{0,3}|[1-5][0-9]{4})"
_ADDRESS = rf"{_BYTE}(\.{_BYTE}){{3}}"
_ATOM = "|".join((
    "tcp|udp|icmp|arp|dns|tls|http",
    rf"ip\.(addr|src|dst) (==|!=) {_ADDRESS}(/([12]?[0-9]|3[0-2]))?",
    rf"(tcp|udp)\.(port|srcport|dstport) {_COMPARED} {_PORT}",
    rf"nodetap\.proto {_COMPARED} (0|[1-9][0-9]?)",
    r'(nodetap\.agent|k8s\.pod|k8s\.namespace) (==|!=|contains) "[a-z0-9-]{1,40}"',
))  # fmt: skip
_TERM = rf"(not )?({_ATOM})"
FILTER: Schema = {
    "type": "string",
    "pattern": rf"^({_TERM}( (and|or) {_TERM}){{0,4}})?$",
    "examples": ["tcp.port == 443 and ip.addr == 10.0.0.0/8", "dns or icmp"],
}

AGENT: Schema = {"type": "string", "minLength": 1, "maxLength": 255}
_PRIMITIVE = rf"(not )?(tcp|udp|icmp|arp|ip|ip6|(tcp |udp )?port {_PORT}|host {_ADDRESS})"
BPF: Schema = {
    "type": "string",
    "pattern": f"^({_PRIMITIVE}( (and|or) {_PRIMITIVE}){{0,4}})?$",
    "examples": ["tcp port 443", "not port 22"],
}


def choice(values: Iterable[str]) -> Schema:
    """One of these."""
    return {"type": "string", "enum": list(values)}


def names(*tables: str) -> Schema:
    """Fields that can be shown of all these tables."""
    first, *others = (fields_of(table) for table in tables)
    return _list(choice(name for name in first if all(name in other for other in others)))


def keys(table: str) -> Schema:
    """Fields that can be grouped by."""
    figures = [name for name, _, _ in FIGURES[table]]
    return _list(choice(name for name in fields_of(table) if name not in figures))


def order(table: str) -> Schema:
    """What rows can be sorted by."""
    known = [name for name, field in fields_of(table).items() if field.kind != "map"]
    either = "|".join(map(re.escape, known))
    return _list({"type": "string", "pattern": f"^({either})(:asc|:desc)?$"})


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


OBJECT: Schema = {"type": "object"}


def of_list(name: str) -> Schema:
    """An object with one list of objects."""
    return {"type": "object", "required": [name], "properties": {name: {"type": "array", "items": OBJECT}}}


ROWS: Schema = {"type": ["array", "object"]}
"""Rows; an object with `completeness=only` or `explain=yes`."""
