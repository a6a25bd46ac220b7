"""Names of rows while a cluster changes and its API server fails in the ways that servers do."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from time import time_ns
from typing import Any

import pytest
import structlog
from cluster import SECOND, Churn, churn, node, pod, running
from naming import REASON, Rows, columns_of, compare, words
from procs import until
from server import ApiServer

from hub.k8s.api import Api
from hub.k8s.names import WAIT, Names
from hub.k8s.place import Server


@pytest.fixture
def server() -> Iterator[ApiServer]:
    made = ApiServer(token="secret")
    old = time_ns() - 3600 * SECOND
    made.put("nodes", node("n1", old, "192.168.0.1", "10.42.0.0/16"))
    made.put("pods", ready("web-1", "10.42.0.7", old))
    yield made
    made.close()


def ready(name: str, address: str, created: int) -> dict[str, Any]:
    return running(pod(name, created, node="n1"), address, created, created)


@pytest.fixture
def names(server: ApiServer, tmp_path: Any) -> Iterator[Names]:
    (tmp_path / "token").write_text("secret\n")
    made = Names(Api(Server(server.url, str(tmp_path / "token"))), structlog.get_logger())
    made.start()
    assert made.listed(30)
    until("pods are watched", lambda: watches(server) > 0)
    yield made
    made.stop()


def ask(names: Names, address: str, at: int = 0) -> list[str]:
    at = at or time_ns()
    names.wait(at)
    found: Any = names.of("packets", columns_of([address], [address], [at]), {})
    return words(found["k8s_src"])[0]


def named(names: Names, address: str, name: str, timeout: float = 30.0) -> None:
    until(f"{address} is {name}", lambda: ask(names, address)[1] == name, timeout)


def appears(server: ApiServer, names: Names, number: int) -> None:
    """A pod that is new now is named."""
    server.put("pods", ready(f"new-{number}", f"10.42.1.{number}", time_ns()))
    named(names, f"10.42.1.{number}", f"new-{number}")


def watches(server: ApiServer) -> int:
    return sum(path == "GET /api/v1/pods" and "watch=1" in query for path, query in server.requests)


def lists(server: ApiServer) -> int:
    return sum(path == "GET /api/v1/pods" and "limit=250" in query for path, query in server.requests)


def test_what_is_there_and_what_comes_is_named(server: ApiServer, names: Names) -> None:
    assert ask(names, "10.42.0.7")[1:5] == ["web-1", "web-1", "", "n1"]
    assert ask(names, "8.8.8.8")[REASON] == "external"
    appears(server, names, 1)
    server.delete("pods", ready("web-1", "10.42.0.7", time_ns() - 3600 * SECOND))
    until("it is gone", lambda: ask(names, "10.42.0.7")[REASON] == "unassigned")


def test_a_watch_goes_on_where_it_was_cut(server: ApiServer, names: Names) -> None:
    before = lists(server)
    for number in range(1, 4):
        server.cut()
        appears(server, names, number)
    assert lists(server) == before
    assert watches(server) > 1


@pytest.mark.parametrize("in_stream", [False, True])
def test_what_the_server_has_forgotten_is_listed_again(server: ApiServer, names: Names, in_stream: bool) -> None:
    server.faults.gone_in_stream = in_stream
    before = lists(server)
    with server.news:
        server.cut()
        server.delete("pods", ready("web-1", "10.42.0.7", 0))
        server.put("pods", ready("web-2", "10.42.0.8", time_ns()))
        server.forget()
    named(names, "10.42.0.8", "web-2")
    assert ask(names, "10.42.0.7")[REASON] == "unassigned"
    assert lists(server) > before


def test_a_silent_watch_is_replaced(server: ApiServer, names: Names) -> None:
    for number in range(60):  # a busy watch, so that silence is soon told
        server.put("pods", ready("busy", "10.42.2.1", number))
        time.sleep(0.01)
    server.hush()
    appears(server, names, 1)


@pytest.mark.parametrize("refusal", [(429, "1"), (500, ""), (503, ""), (401, "")])
def test_refusals_are_outlasted(server: ApiServer, names: Names, refusal: tuple[int, str]) -> None:
    server.faults.refuse = [refusal] * 3
    server.cut()
    appears(server, names, 1)
    assert server.faults.refuse == []


def test_pages_that_expire_are_read_again(server: ApiServer, names: Names) -> None:
    for number in range(600):
        server.put("pods", ready(f"many-{number}", f"10.42.{4 + number // 200}.{number % 200}", number))
    named(names, "10.42.6.199", "many-599")
    with server.news:
        server.faults.expire_pages = 1
        server.forget()
        server.cut()
    appears(server, names, 1)
    until("the token was refused", lambda: server.faults.expire_pages == 0)
    assert ask(names, "10.42.6.199")[1] == "many-599"


def test_without_the_server_rows_are_stale_and_nobody_waits(server: ApiServer, names: Names) -> None:
    server.faults.mute = True
    server.cut()
    until("stale", lambda: ask(names, "10.42.0.7")[REASON] == "stale", 60)
    time.sleep(WAIT / 1e9)
    begun = time.monotonic()
    for _ in range(20):
        assert ask(names, "10.42.0.7")[REASON] == "stale"
    assert time.monotonic() - begun < 20 * WAIT / 1e9 / 2
    server.faults.mute = False
    named(names, "10.42.0.7", "web-1", 120)


def test_a_new_token_is_taken(server: ApiServer, names: Names, tmp_path: Any) -> None:
    server.token = "second"
    (tmp_path / "token").write_text("second\n")
    server.cut()
    appears(server, names, 1)


def test_objects_that_make_no_sense_are_passed_over(server: ApiServer, names: Names) -> None:
    server.put("pods", {"metadata": {"uid": "u", "name": "odd"}, "spec": [], "status": "?"})
    appears(server, names, 1)
    until("it was counted", lambda: names.unreadable >= 1)


class Player(threading.Thread):
    """Plays a script as its time comes; `late` is how far behind it was at worst since it was asked."""

    def __init__(self, server: ApiServer, made: Churn) -> None:
        super().__init__(daemon=True)
        self.server, self.made, self.late = server, made, 0

    def run(self) -> None:
        for at, kind, what, item in self.made.events:
            while (left := at - time_ns()) > 0:
                time.sleep(left / 1e9)
            self.late = max(self.late, time_ns() - at)
            self.server.play(kind, what, item)

    def lateness(self) -> int:
        late, self.late = self.late, 0
        return late


def faults(server: ApiServer, over: threading.Event, pause: float = 1.5) -> None:
    def both(*calls: Callable[[], Any]) -> None:
        with server.news:
            for call in calls:
                call()

    kinds = [
        server.cut,
        server.hush,
        lambda: both(server.cut, server.forget),
        lambda: server.faults.refuse.append((500, "")),
    ]
    number = 0
    while not over.wait(pause):
        server.faults.silent = False
        kinds[number % len(kinds)]()
        number += 1


def test_no_row_is_misnamed_under_churn_and_faults(tmp_path: Any) -> None:
    rng = random.Random(11)
    server, over = ApiServer(), threading.Event()
    made = churn(rng, pods=1000, changes=50, seconds=8, start=time_ns() + 2 * SECOND, report=0.5)
    for kind, items in made.objects.items():
        for item in items:
            server.put(kind, item)
    names = Names(Api(Server(server.url)), structlog.get_logger())
    names.start()
    player = Player(server, made)
    try:
        assert names.listed(30)
        player.start()
        threading.Thread(target=faults, args=(server, over), daemon=True).start()
        found, judged = name_while(names, player, made, rng)
    finally:
        over.set()
        names.stop()
        server.close()
    assert judged == 0 or found["named"] > 0


def name_while(names: Names, player: Player, made: Churn, rng: random.Random) -> tuple[Counter[str], int]:
    """Name batches while the script plays. Those of moments in which the player itself was late prove nothing."""
    truth, found, wrong, judged = made.truth(), Counter[str](), list[str](), 0
    draw, begin = Rows(made, rng), time_ns()
    while player.is_alive():
        time.sleep(0.3)
        end = time_ns()
        addresses, times = draw.draw(begin, end, 300)
        names.wait(max(times))
        given: Any = names.of("packets", columns_of(addresses, addresses, times), {})
        if player.lateness() < SECOND // 4:
            judged += 1
            for side in ("src", "dst"):
                compare(given[f"k8s_{side}"], addresses, times, truth, found, wrong, side == "src")
        begin = end
    assert wrong == []
    return found, judged
