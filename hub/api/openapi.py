"""The OpenAPI document, worked out from the route table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hub.api import schemas
from hub.api.params import FILTER, Param
from hub.api.problems import PROBLEMS
from hub.api.routes import OPEN, Row
from hub.api.schemas import Schema
from hub.tokens import ADMIN, CAPTURE, READ

JSON, TEXT = "application/json", "text/plain"

ANSWERS: dict[str, Schema] = {
    "/v1/packets": schemas.ROWS,
    "/v1/flows": schemas.ROWS,
    "/v1/calls": schemas.ROWS,
    "/v1/agents": schemas.of_list("agents"),
    "/v1/ledger": schemas.of_list("agents"),
    "/v1/fields": schemas.of_list("fields"),
    "/v1/doctor": schemas.of_list("findings"),
}
"""What the JSON at a path is; an object where nothing else is said."""
HEADERS = {
    "ask": {
        "nodetap-since": "begin of the window, nanoseconds since 1970; empty = open",
        "nodetap-until": "its end, exclusive",
        "nodetap-most": "limits of the answer",
    }
}
"""Headers of answers, by the kind of the route."""
FAILS = {
    "ask": ("query_failed", "busy", "store_error", "query_timeout"),
    "follow": ("bad_cursor", "wrong_store", "busy", "store_error", "query_timeout"),
    "frames": ("busy",),
    "live": ("busy",),
    "doctor": ("busy",),
    "set": ("bad_setting",),
    "forget": ("no_such_agent", "agent_connected"),
}
"""Problems of a route beside those of its parameters and of who asks, by its kind."""


def document(rows: Iterable[Row], version: str, tokens: bool) -> dict[str, Any]:
    """The document (OpenAPI 3.1) of these routes, of a hub with or without tokens."""
    paths: dict[str, Any] = {}
    for row in rows:
        paths.setdefault(_path(row.path), {})[row.method.lower()] = _operation(row, tokens)
    components: dict[str, Any] = {"schemas": {"Problem": _problem()}}
    if tokens:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "nodetap hub", "version": version},
        "paths": paths,
        "components": components,
    }


def _path(path: str) -> str:
    return re.sub(r":\w+}", "}", path)


def _operation(row: Row, tokens: bool) -> dict[str, Any]:
    names = re.findall(r"{(\w+)", row.path)
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    guarded = tokens and row.role != OPEN
    role = {"description": f"Takes a token with the role `{row.role}`, or one that includes it."} if guarded else {}
    return {
        "summary": row.summary,
        **role,
        "operationId": f"{row.method.lower()}{re.sub(r'[^a-z0-9]+', '_', _path(row.path))}",
        "parameters": [*in_path, *map(_parameter, row.params)],
        "responses": _responses(row, tokens),
        "security": [{"token": []}] if guarded else [],
    }


def _parameter(param: Param) -> dict[str, Any]:
    schema = dict(schemas.choice(param.choices) if param.choices else param.schema)
    found: dict[str, Any] = {"name": param.name, "in": "query", "description": param.doc, "schema": schema}
    if schema["type"] == "array":
        return {**found, "style": "form", "explode": False}
    if param.default:
        schema["default"] = _typed(param.default, schema["type"])
    return found


def _typed(text: str, kind: str) -> Any:
    return {"integer": int, "number": float}.get(kind, str)(text)


def _responses(row: Row, tokens: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"204": {"description": "done"}} if row.kind == "forget" else {"200": _answer(row)}
    if row.path == "/readyz":
        found["503"] = {"description": "the reason why not", "content": {TEXT: {"schema": schemas.TEXT}}}
    for code in _codes(row, tokens):
        status, title = PROBLEMS[code]
        told = found.get(str(status), {}).get("description")
        found[str(status)] = _problem_answer(status, f"{told}; {title}" if told else title)
    return {**dict(sorted(found.items())), "default": _problem_answer(0, "Another problem")}


def _codes(row: Row, tokens: bool) -> Iterable[str]:
    """The problems that a route is known to answer with."""
    if row.role == OPEN:
        return
    names = {param.name for param in row.params}
    yield from ("too_many", "internal")
    yield from ("bad_token", "not_allowed") if tokens else ()
    yield from ("bad_parameter",) if names else ()
    yield from ("bad_filter",) if FILTER in row.params else ()
    yield from ("contradiction",) if "by" in names or row.kind == "set" else ()
    yield from FAILS.get(row.kind, ())


def _problem_answer(status: int, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": what,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in (429, 503):
        after = {"description": "seconds until to ask again", "schema": {"type": "integer", "minimum": 1}}
        found["headers"] = {"Retry-After": after}
    return found


def _answer(row: Row) -> dict[str, Any]:
    content: dict[str, Any] = {media: {} for media in row.produces}
    if JSON in content:
        content[JSON] = {"schema": dict(ANSWERS.get(row.path, schemas.OBJECT))}
    found: dict[str, Any] = {"description": row.summary, "content": content}
    if row.kind in HEADERS:
        found["headers"] = {
            name: {"description": doc, "schema": dict(schemas.TEXT)} for name, doc in HEADERS[row.kind].items()
        }
    return found


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": {"type": "string", "enum": sorted(PROBLEMS)},
            "column": {"type": ["integer", "null"]},
            "suggestion": {"type": ["string", "null"]},
            "role": {"type": "string", "enum": [READ, CAPTURE, ADMIN]},
        },
    }
