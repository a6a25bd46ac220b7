"""The OpenAPI document, worked out from the route table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hub.api.params import Param
from hub.api.problems import PROBLEMS
from hub.api.routes import OPEN, Row


def document(rows: Iterable[Row], version: str) -> dict[str, Any]:
    """The document (OpenAPI 3.1) of these routes."""
    paths: dict[str, Any] = {}
    for row in rows:
        paths.setdefault(_path(row.path), {})[row.method.lower()] = _operation(row)
    return {
        "openapi": "3.1.0",
        "info": {"title": "nodetap hub", "version": version},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _problem()},
        },
    }


def _path(path: str) -> str:
    return re.sub(r":\w+}", "}", path)


def _operation(row: Row) -> dict[str, Any]:
    names = re.findall(r"{(\w+)", row.path)
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    answer: dict[str, Any] = {"200": {"description": row.summary, "content": {media: {} for media in row.produces}}}
    done = {"204": {"description": "done"}} if row.method == "DELETE" else answer
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "summary": row.summary,
        "operationId": f"{row.method.lower()}{re.sub(r'[^a-z0-9]+', '_', _path(row.path))}",
        "parameters": [*in_path, *map(_parameter, row.params)],
        "responses": {**done, "default": {"description": "an error", "content": problem}},
        "security": [] if row.role == OPEN else [{"token": []}],
    }


def _parameter(param: Param) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if param.default:
        schema["default"] = param.default
    if param.choices:
        schema["enum"] = list(param.choices)
    return {"name": param.name, "in": "query", "description": param.doc, "schema": schema}


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
            "column": {"type": "integer"},
            "suggestion": {"type": ["string", "null"]},
        },
    }
