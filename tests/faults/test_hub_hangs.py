"""Scenario 3b: a hub whose writer hangs says so, writes its stacks, ends; under a supervisor everything goes on."""

from __future__ import annotations

import time
from pathlib import Path

from figures import record
from herd import Herd, Lateness, check_invariant
from procs import Hub, ending, status_of, until

DEADLINE = 2.0


def test_a_hub_that_hangs_ends_itself_and_under_a_supervisor_everything_goes_on(
    tmp_path: Path, machine: Lateness
) -> None:
    hang = tmp_path / "hang"
    env = {"NODETAP_FAILPOINT": f"ingest_hang={hang}", "NODETAP_COMMIT_DEADLINE": str(DEADLINE)}
    hub = Hub(tmp_path, env=env).ready()
    herd = Herd(tmp_path, hub.ws, 10, rows=50, interval=0.2, backoff_max=2.0, stall_timeout=3.0)
    with ending(hub, herd):
        herd.all_streaming()
        hang.touch()
        hung = time.monotonic()
        until("not ready", lambda: status_of(f"{hub.api}/readyz") == 503, 2 * DEADLINE)
        unready = time.monotonic() - hung
        code = hub.wait(3 * DEADLINE + 5)
        took = time.monotonic() - hung
        assert code == 70, hub.text[-2000:]
        assert took <= 3 * DEADLINE or machine.overrun, took
        assert [e for e in hub.events if e.get("event") == "hub is wedged; ending it"]
        assert "hub/failpoints.py" in hub.text  # the stack of the thread that hangs
        hang.unlink()
        started = time.monotonic()
        hub = hub.again(env=env).ready()  # what a supervisor does: the same command once more
        with ending(hub):
            herd.all_streaming(20)
            back = time.monotonic()
            streaming = back - started
            until("stored again", lambda: hub.metric('nodetap_hub_rows_stored_total{kind="packets"}') > 0)
            herd.popen.terminate()
            told = herd.told()
            ledger = hub.ledger()
            assert hub.stop() == 0
        check_invariant(tmp_path, ledger, told)
        assert all(any(t > back for t, _ in agent["acks"]) for agent in told)
    record(
        "3b", f"the writer of a hub hangs, 10 agents stream, deadline D {DEADLINE:.0f} s",
        "`/readyz` 503, stacks, exit not 0 within 3 D; started again, all stream and nothing is lost or doubled",
        f"503 after {unready:.1f} s, exit {code} after {took:.1f} s, all streaming {streaming:.1f} s after the start",
    )  # fmt: skip


def test_a_hub_whose_disk_hangs_while_it_ends_is_gone_all_the_same(tmp_path: Path) -> None:
    first = (
        "import time; import hub.watchdog; import hub.store.store; hub.watchdog.ENDING = 3.0\n"
        "hub.store.store.Store.close = lambda store: time.sleep(3600)  # as in an fsync(2) that does not return"
    )
    hub = Hub(tmp_path, first=first).ready()
    with ending(hub):
        assert hub.stop() == 70
    assert [e for e in hub.events if e.get("event") == "hub is down"]
    assert "most recent call first" in hub.text
