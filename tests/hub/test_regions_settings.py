"""Settings of agents of several hubs: shown for all, changed where the agent is, and no further than the first no."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from procs import free_port

from hub.cli.main import run


class Played:
    """A hub with these agents, on their nodes; it refuses every change for which it has a `reason`."""

    def __init__(
        self, *agents: str, status: int = 0, code: str | None = None, reason: str = "", wishes: tuple[str, ...] = ()
    ) -> None:
        self.agents, self.status, self.reason = agents, status, reason
        self.code = code or {400: "bad_setting"}.get(status)
        self.loses = False
        self.wishes = {name: {"detail": "flows"} for name in wishes}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def answer(self, method: str, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if method != "GET":
            self.asked.append((method, asked))
            if self.status:
                return self.status, {"code": self.code, "detail": self.reason, "status": self.status}
            self.wishes[asked["agent"]] = {name: text for name, text in asked.items() if name != "agent"}
        rows = [
            {"agent": name, "node": f"node-{name}", "settings": {"filter": "", "detail": "packets", "l7": "all"},
             "wanted": [], "refused": ""}
            for name in self.agents
        ]  # fmt: skip
        return 200, {"wishes": self.wishes, "agents": rows, "waiting": []}


def _handler(hub: Played) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            status, value = hub.answer(self.command, query)
            if self.command != "GET" and hub.loses:
                return  # the connection ends, without an answer
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = _do

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    return Handler


@contextmanager
def playing(*hubs: Played) -> Iterator[list[str]]:
    """Their URLs; afterwards nobody listens there."""
    with ExitStack() as stack:
        for hub in hubs:
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join, 10)
            stack.callback(server.shutdown)
            hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield [hub.url for hub in hubs]


def configure(urls: list[str], *words: str) -> int:
    return run([*(word for url in urls for word in ("--hub-url", url)), "configure", *words])


def test_settings_of_all_hubs_are_shown_with_their_hub(capfd: Any) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with playing(Played("a"), Played("b")) as urls:
        assert configure(urls) == 0
        header, *lines = capfd.readouterr().out.splitlines()
        assert header.split() == ["agent", "hub", "filter", "detail", "l7"]
        assert [line.split()[:2] for line in lines] == [["a", urls[0]], ["b", urls[1]]]
        assert configure([*urls, away], "-o", "json") == 0
        out, err = capfd.readouterr()
        told = json.loads(out)
        assert [row["hub"] for row in told["agents"]] == urls
        assert [each["hub"] for each in told["hubs"] if "reason" in each] == [away]
        assert err.startswith(f"nodetap: hub {away} missing (")


@pytest.mark.parametrize("name", ["b", "node-b", "c"])
def test_a_change_is_made_where_the_agent_is(capfd: Any, name: str) -> None:
    first, second = Played("a"), Played("b", wishes=("c",))
    with playing(first, second) as urls:
        assert configure(urls, "--agent", name, "--detail", "flows") == 0
        assert (first.asked, second.asked) == ([], [("PUT", {"agent": name, "detail": "flows"})])
        assert configure(urls, "--agent", name, "--reset") == 0
        assert (first.asked, len(second.asked)) == ([], 2)
        assert configure(urls, "--l7-mode", "fast") == 0
        assert (len(first.asked), len(second.asked)) == (1, 3)


def test_whoever_is_no_hub_is_named(capfd: Any) -> None:
    stranger = Played("b")
    stranger.answer = lambda method, asked: (200, {"hello": "world"})  # type: ignore[method-assign]
    with playing(Played("a"), stranger) as urls:
        assert configure(urls) == 0
        assert f"hub {urls[1]} missing (it is no nodetap hub" in capfd.readouterr().err
        assert configure([urls[1], f"{urls[1]}/x"]) == 3
    assert "no hub answers" in capfd.readouterr().err


def test_nobody_of_that_name_is_a_negative_finding(capfd: Any) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    first = Played("a")
    with playing(first) as urls:
        assert configure([*urls, away], "--agent", "b", "--detail", "flows") == 1
    assert first.asked == []
    err = capfd.readouterr().err
    assert (err.count("\n"), "has an agent or node b" in err, away in err) == (1, True, True)


def test_what_the_first_refuses_is_changed_nowhere(capfd: Any) -> None:
    first, second = Played("a", status=400, reason="nothing was changed: a: bad filter"), Played("b")
    with playing(first, second) as urls:
        assert configure(urls, "--bpf", "tcp prot 80") == 2
    assert second.asked == []
    assert capfd.readouterr().err == "nodetap: nothing was changed: a: bad filter\n"


def test_where_it_was_not_changed_is_said(capfd: Any) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    hubs = Played("a"), Played("b", status=503, reason="later"), Played("c", status=400, reason="no"), Played("d")
    with playing(*hubs) as urls:
        assert configure([away, *urls], "--bpf", "tcp") == 1
        out = capfd.readouterr().out
        for url, why in (
            (away, "cannot reach"),
            (urls[1], "cannot answer now"),
            (urls[2], "no"),
            (urls[3], "not asked"),
        ):
            assert f"not changed at the hub {url}: " in out
            assert why in out
        assert f"hub {urls[0]}" not in out
        assert [len(hub.asked) for hub in hubs] == [1, 1, 1, 0]
        assert configure([away, *urls[:2]], "--bpf", "tcp", "-o", "json") == 1
        told = json.loads(capfd.readouterr().out)
        assert [each["hub"] for each in told["failed"]] == [away, urls[1]]


@pytest.mark.parametrize(("status", "code"), [(0, None), (500, "internal"), (503, "store_error"), (504, None)])
def test_a_change_whose_answer_is_lost_may_have_been_made(capfd: Any, status: int, code: str | None) -> None:
    first, second = Played("a"), Played("b", status=status, code=code, reason="later")
    second.loses = not status
    with playing(first, second) as urls:
        assert configure(urls[1:], "--bpf", "tcp") == 3
        err = capfd.readouterr().err
        assert err.endswith("; changed or not: see `nodetap configure`, or change it again\n")
        assert (err.count("\n"), urls[1] in err) == (1, True)
        assert configure(urls, "--bpf", "tcp") == 1
        out = capfd.readouterr().out
        assert f"\nchanged or not at the hub {urls[1]}: " in out
        assert out.endswith("; see `nodetap configure`\n")
        assert configure(urls, "--reset", "-o", "json") == 1
        told = json.loads(capfd.readouterr().out)
        assert [(each["hub"], each["doubtful"]) for each in told["failed"]] == [(urls[1], True)]
        assert [row["agent"] for row in told["agents"]] == ["a"]  # what the other's are is not known
    assert [len(hub.asked) for hub in (first, second)] == [2, 3]


@pytest.mark.parametrize(("status", "code"), [(403, "not_allowed"), (429, "too_many"), (503, "busy"), (503, None)])
def test_a_change_that_was_not_begun_was_not_made(capfd: Any, status: int, code: str | None) -> None:
    with playing(Played("a", status=status, code=code, reason="later")) as urls:
        assert configure(urls, "--bpf", "tcp") == 3
    assert configure(urls, "--bpf", "tcp") == 3  # nobody is there any more
    assert "changed" not in capfd.readouterr().err
