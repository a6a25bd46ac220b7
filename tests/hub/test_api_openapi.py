"""The OpenAPI document says what the API does: every route, parameter and status, and values that are taken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from api_server import NOW, Served, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_rows import entry
from starlette.requests import Request
from test_filter import random_rows

from hub.api import params, schemas
from hub.api.openapi import document
from hub.api.params import Param
from hub.api.problems import PROBLEMS, Problem
from hub.api.routes import OPEN, ROUTES, Row
from hub.query.answer import build
from hub.query.select import Contradiction, Question
from protocol.filter.errors import FilterError

DOCUMENTS = {tokens: document(ROUTES, "1.0", tokens) for tokens in (False, True)}
ROWS = {"/v1/packets": "packets", "/v1/flows": "flows", "/v1/calls": "calls"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("openapi")) as served:
        rows = [row | {"time": NOW - 10**9 + row["frame_number"]} for row in random_rows("packets", 50, 5)]
        served.commit(entry("packets", rows, 1))
        yield served


def operation(row: Row, tokens: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENTS[tokens]["paths"][re.sub(r":\w+}", "}", row.path)][row.method.lower()]
    return found


# -- what it says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: f"{row.method} {row.path}")
def test_every_route_its_parameters_and_statuses_are_described(row: Row) -> None:
    for tokens in (False, True):
        told = operation(row, tokens)
        assert told["summary"]
        given_ = {each["name"]: each for each in told["parameters"]}
        assert set(given_) == {param.name for param in row.params} | set(re.findall(r"{(\w+)", row.path))
        assert all(each["schema"]["type"] and (each["in"] == "path" or each["description"]) for each in given_.values())
        assert {"204" if row.kind == "forget" else "200", "default"} <= set(told["responses"])
        guarded = tokens and row.role != OPEN
        assert {status in told["responses"] for status in ("401", "403")} == {guarded}
        assert ("429" in told["responses"]) == (row.role != OPEN)
        assert ("400" in told["responses"]) == bool(row.params)
        assert told["security"] == ([{"token": []}] if guarded else [])
        assert (f"`{row.role}`" in told.get("description", "")) == guarded


def test_operations_have_names_of_their_own() -> None:
    names = [operation(row)["operationId"] for row in ROUTES]
    assert len(set(names)) == len(names)


def test_every_code_is_told_somewhere() -> None:
    text = json.dumps(DOCUMENTS[True])
    assert all(
        title in text for code, (_, title) in PROBLEMS.items() if code not in ("not_found", "method_not_allowed")
    )


def test_a_hub_without_tokens_asks_for_none(api: Served) -> None:
    assert api.get("/openapi.json").json() == document(ROUTES, "0.0-test", False)
    assert "securitySchemes" not in DOCUMENTS[False]["components"]


def test_defaults_fit_their_schemas() -> None:
    for row in ROUTES:
        for param in row.params:
            if param.default:
                assert fits(param, param.default), (row.path, param.name)


# -- what fits is taken --------------------------------------------------------------------------------------------


def fits(param: Param, text: str) -> bool:
    """Whether a text fits the schema of a parameter."""
    schema = schemas.choice(param.choices) if param.choices else param.schema
    match schema["type"]:
        case "string":
            return text in schema.get("enum", [text]) and bool(re.search(schema.get("pattern", ""), text))
        case "integer" | "number":
            return bool(schema["minimum"] <= float(text) <= schema["maximum"])
    return text == ""


def values(schema: schemas.Schema) -> st.SearchStrategy[str]:
    """Texts that fit a schema."""
    match schema["type"]:
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"]).map(str)
        case "number":
            return st.floats(schema["minimum"], schema["maximum"]).map(str)
        case "array":
            return st.lists(values(schema["items"]), max_size=6).map(",".join)
    if "minLength" in schema:
        return st.text(min_size=schema["minLength"], max_size=schema["maxLength"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return st.from_regex(schema["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii"))


def question(row: Row) -> st.SearchStrategy[dict[str, str]]:
    """Parameters that fit their schemas, any of them left out."""
    found = {p.name: values(schemas.choice(p.choices) if p.choices else p.schema) for p in row.params}
    return st.fixed_dictionaries({}, optional=found)


def read(row: Row, given_: dict[str, str]) -> dict[str, Any]:
    scope = {"type": "http", "query_string": str(httpx.QueryParams(given_)).encode(), "headers": []}
    return params.read(Request(scope), row.params, NOW)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([row for row in ROUTES if row.params]).flatmap(lambda row: st.tuples(st.just(row), question(row)))
)
def test_what_fits_its_schema_is_taken(drawn: tuple[Row, dict[str, str]]) -> None:
    row, given_ = drawn
    found = read(row, given_)
    for table in [ROWS[row.path]] if row.path in ROWS else ["packets", "flows", "calls"]:
        node = params.filter_of(found, table) if params.FILTER in row.params else None
        if row.path not in ROWS:
            continue
        try:
            build(
                Question(
                    table, node, found["since"], found["until"], found["limit"], found["fields"], found["format"],
                    found.get("by", ()), found.get("top", 0), found["sort"], 1,
                )
            )  # fmt: skip
        except Contradiction:
            assert given_.get("by")


# -- and nothing is a bug ------------------------------------------------------------------------------------------

NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from([
        "", "0", "-1", "all", "15m", "1e9", "99999999999", "999999999w", "2026-02-30T00:00:00Z", "9" * 30, "\x00",
        "%00", "ip.src", "ip.src,", ",", "ip.src:desc", "flow.bytes", "call.count", "nodetap.fields", "json", "parquet",
        "only", "yes", "tcp.port == 443", "tcp.port ==", "ip.addr == 1.2.3.4/33", "nodetap.info matches '('", "((((",
        "not " * 60, "frame.time > 2026-13-01", "nodetap.info contains '\\x00'", "eyJhIjpbInBhY2tldHMiLDEsbnVsbF19",
        "é" * 30, "🦈", "tcp.port in {1..99999999}", "frame.number == 1 or " * 80 + "tcp",
    ]),
)  # fmt: skip
CLOSED = ("/v1/packets", "/v1/flows", "/v1/calls", "/v1/doctor", "/v1/agents", "/v1/fields", "/v1/pcap")
NAMES = sorted({param.name for row in ROUTES for param in row.params} | {"sinse"})


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(CLOSED), given_=st.dictionaries(st.sampled_from(NAMES), NASTY, max_size=4))
def test_no_parameters_are_a_bug_of_the_hub(api: Served, path: str, given_: dict[str, str]) -> None:
    try:
        query = str(httpx.QueryParams(given_))
    except UnicodeEncodeError:
        return
    if path == "/v1/doctor":
        query = re.sub("deadline", "sinse", query)  # it waits
    response = httpx.get(f"{api.url}{path}?{query}", timeout=30)
    assert response.status_code < 500 or response.status_code in (503, 504), response.text
    if response.status_code >= 400:
        problem = response.json()
        assert problem["detail"]
        assert "\n" not in problem["detail"]
        assert (
            str(response.status_code) in operation(next(row for row in ROUTES if row.path == path), False)["responses"]
        )


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), NASTY, max_size=5))
def test_following_and_capturing_refuse_in_words(given_: dict[str, str]) -> None:
    for row in ROUTES:
        if row.kind in ("follow", "live"):
            with suppress(Problem, FilterError):
                params.filter_of(read(row, given_), "packets")
