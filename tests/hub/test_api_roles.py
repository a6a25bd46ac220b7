"""Who may do what through the API, and what the log says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_server import Served, serve
from structlog.testing import capture_logs

from hub.api.routes import OPEN, ROUTES
from hub.refusals import EVERY, MOST, Refusals
from hub.tokens import MAY

TOKENS = {role: f"{role}-secret" for role in MAY}
FILE = "".join(f"{role} {secret} {role}s\n" for role, secret in TOKENS.items())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("roles"), FILE) as served:
        yield served


def asked(api: Served, method: str, path: str, token: str) -> tuple[int, dict[str, Any]]:
    """The status, and the problem where there is one. Answers that do not end are left."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.stream(method, api.url + path, headers=headers, timeout=30) as answer:
        problem = answer.headers.get("content-type") == "application/problem+json"
        answered = answer.read() if problem else b"{}"
        return answer.status_code, json.loads(answered)


@pytest.mark.parametrize("role", MAY)
@pytest.mark.parametrize("row", ROUTES, ids=lambda row: f"{row.method} {row.path}")
def test_a_route_takes_its_role(api: Served, row: Any, role: str) -> None:
    status, problem = asked(api, row.method, row.path.replace("{name:path}", "nobody"), TOKENS[role])
    if row.role == OPEN or row.role in MAY[role]:
        assert status in (200, 404, 409)  # 409: nothing to change was said
    else:
        assert (status, problem["code"], problem["role"]) == (403, "not_allowed", row.role)
        assert f"role {row.role}" in problem["detail"]
        assert f"{role}s has the role {role}" in problem["detail"]


def test_reading_raw_frames_and_forgetting_take_three_roles() -> None:
    taken = {row.role for row in ROUTES}
    assert taken == {OPEN, "read", "capture", "admin"}
    assert {row.path for row in ROUTES if row.role == OPEN} == {"/healthz", "/readyz"}
    assert all(row.role == "admin" for row in ROUTES if row.method != "GET")


def test_the_log_tells_of_those_who_were_refused_and_not_each_time(api: Served) -> None:
    with capture_logs() as logs:
        for _ in range(5):
            assert asked(api, "GET", "/v1/pcap?limit=7", TOKENS["read"])[0] == 403
            assert asked(api, "GET", "/v1/status", "guess")[0] == 401
    found = [line for line in logs if line["event"] == "a request was refused"]
    assert [(line["code"], "token" in line, line["path"]) for line in found if line["code"] == "bad_token"] == [
        ("bad_token", False, "/v1/status")
    ]
    assert not any("guess" in str(line) or "secret" in str(line) for line in logs)


def test_the_log_tells_who_forgot_an_agent(api: Served) -> None:
    class Connection:
        number, connection = 5, "c5"

    from protocol.messages import Hello

    hello, connection, now = Hello([1], "web-9", "node-9", 9, [9]), Connection(), api.now[0]
    api.loop.call_soon_threadsafe(api.register.join, hello, connection, now)
    api.loop.call_soon_threadsafe(api.register.leave, "web-9", connection, now)
    with capture_logs() as logs:
        assert asked(api, "DELETE", "/v1/agents/web-9", TOKENS["admin"])[0] == 204
    assert logs == [{
        "event": "an agent was forgotten", "log_level": "info", "agent": "web-9",
        "asked_by": "127.0.0.1", "role": "admin", "token": "admins",
    }]  # fmt: skip


# -- audit: pure ---------------------------------------------------------------------------------------------------


def test_refusals_of_one_client_are_told_once_a_minute_with_their_number() -> None:
    refusals = Refusals()
    assert [refusals.count("a", "bad_token", now) for now in (0.0, 1.0, EVERY - 1)] == [1, 0, 0]
    assert refusals.count("b", "bad_token", 2.0) == 1
    assert refusals.count("a", "not_allowed", 2.0) == 1
    assert refusals.count("a", "bad_token", EVERY) == 3


def test_refusals_of_countless_clients_take_bounded_memory() -> None:
    refusals = Refusals()
    told = sum(refusals.count(str(client), "bad_token", 0.0) for client in range(3 * MOST))
    assert told == MOST
    assert refusals.count("late", "bad_token", EVERY) == 1
