"""Scenario 19: a herd that comes back at once is let in at a rate, and everybody streams soon.

200 agents whose hub starts again at once; with NODETAP_FAULTS=full 1,000 whose hub is away for 30 s. They wait between
attempts as they do by default.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from figures import record
from herd import Herd, Lateness, check_invariant, memory
from procs import Hub, ending, until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hub.ingest.admission import BURST, LONGEST, RATE

FULL = os.environ.get("NODETAP_FAULTS") == "full"
AGENTS, PROCESSES = (1_000, 2) if FULL else (200, 1)
AWAY = 30.0 if FULL else 0.0
DRAIN = 20.0
LAG = "nodetap_hub_loop_lag_seconds"


def lag_p99(hub: Hub) -> float:
    """How late the hub's loop is at the 99th of a hundred looks, seconds, estimated as histogram_quantile does."""
    text = urllib.request.urlopen(f"{hub.api}/metrics", timeout=10).read().decode()
    buckets = [line.split() for line in text.splitlines() if line.startswith(f"{LAG}_bucket")]
    low, below = 0.0, 0.0
    for bound, count in ((float(name.split('"')[1]), float(count)) for name, count in buckets):
        if count >= (rank := 0.99 * float(buckets[-1][1])):
            return low + (min(bound, 10.0) - low) * (rank - below) / (count - below)
        low, below = bound, count
    return 0.0


def busiest_second(times: list[float]) -> int:
    """The most of them that lie within one second."""
    times = sorted(times)
    return max(sum(1 for t in times[i:] if t < first + 1.0) for i, first in enumerate(times))


@pytest.mark.timeout(400)
def test_a_herd_comes_back_at_the_rate_the_hub_takes(tmp_path: Path) -> None:
    """Scenario 19, and a hub that is told to stop with a herd connected: it drains in time and loses nothing."""
    hub = Hub(tmp_path).ready()
    herds = [Herd(tmp_path, hub.ws, AGENTS // PROCESSES, f"herd{n}") for n in range(PROCESSES)]
    with ending(hub, *herds):
        for herd in herds:
            herd.all_streaming(180)
        told_to = time.monotonic()
        assert hub.stop(DRAIN) == 0
        gone = time.monotonic()
        time.sleep(AWAY)  # the outage is the fault
        hub = hub.again().ready()
        with ending(hub):
            listening = time.monotonic()
            with Lateness() as machine:
                for herd in herds:
                    herd.all_streaming(60)
                sessions = until("one session each", lambda: hub.metric("nodetap_hub_sessions") == AGENTS, 5)
                lag = lag_p99(hub)
            refused = hub.metric('nodetap_hub_connections_refused_total{code="busy"}')
            for herd in herds:
                herd.popen.terminate()
            told = [agent for herd in herds for agent in herd.told(120)]
            ledger = hub.ledger()
            peak = memory(hub)
            assert hub.stop() == 0
        check_invariant(tmp_path, ledger, told)
    back = [next(t for t in agent["streams"] if t > gone) for agent in told]
    tries = [sum(gone < t < back[n] for t in agent["connects"]) for n, agent in enumerate(told)]
    took, each, busiest = max(back) - listening, sum(tries) / AGENTS, busiest_second(back)
    figures = (
        f"drained in {gone - told_to:.1f} s, all stream after {took:.1f} s, {each:.1f} attempts each, {busiest} in the "
        f"busiest second, {refused:.0f} told to come later, loop lag p99 {lag * 1000:.0f} ms ({machine}), "
        f"hub at most {peak >> 20} MiB"
    )
    print(figures)
    assert sessions
    assert took <= 35.0
    assert each <= 10
    assert busiest <= BURST + RATE
    assert lag <= 0.25 or machine.overrun
    record(
        "19", f"a hub with {AGENTS} agents stops, and is there again {AWAY:.0f} s later",
        f"drained within {DRAIN:.0f} s; all stream within 35 s, one session each, at most 10 attempts each on average, "
        f"at most {BURST + RATE:.0f} let in within a second; hub's loop lag p99 under 250 ms; none lost or doubled",
        figures,
    )  # fmt: skip


def test_who_comes_when_too_many_come_is_told_when_to_come_again(tmp_path: Path) -> None:
    """Scenario 19, the accept rate: of a crowd that knocks at once some are let in, the rest gets 503, Retry-After."""
    hub = Hub(tmp_path).ready()
    crowd = 300

    async def knock() -> str:
        try:
            async with connect(hub.ws, compression=None, ping_interval=None, proxy=None, open_timeout=30):
                return ""
        except InvalidStatus as error:
            return error.response.headers["Retry-After"] if error.response.status_code == 503 else "0"

    async def play() -> list[str]:
        return list(await asyncio.gather(*(knock() for _ in range(crowd))))

    with ending(hub):
        began = time.monotonic()
        answers = asyncio.run(play())
        took = time.monotonic() - began
        admitted = answers.count("")
        later = Counter(int(answer) for answer in answers if answer)
        assert admitted <= BURST + RATE * took
        assert later, "a crowd of 300 came slower than the rate"
        assert min(later) >= 1
        assert max(later) <= LONGEST + 2
        assert len(later) >= 2
        busy = hub.metric('nodetap_hub_connections_refused_total{code="busy"}')
        assert busy == later.total()
        assert hub.metric("nodetap_hub_connections_admitted_total") == admitted
    record(
        "19", f"{crowd} connections at once",
        f"at most {BURST:.0f} and {RATE:.0f} a second let in, the rest 503 with Retry-After, spread over seconds",
        f"{admitted} let in within {took:.1f} s, {later.total()} told to come again in {min(later)} to {max(later)} s",
    )  # fmt: skip
