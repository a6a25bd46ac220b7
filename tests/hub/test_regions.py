"""Several hubs asked as one: what they answer together, and what becomes of it where one does not."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from procs import Hub, ending, free_port
from store_rows import NOW, flows, packet_columns, packets, tombstone

from hub.cli.client import Client, Settings
from hub.cli.main import run
from hub.cli.regions.hubs import Regions
from hub.store.store import Store
from protocol.schema import Has

LAYERS = int(Has.TIME | Has.IP | Has.IPV4 | Has.TCP)
MANY = 100_000


class Done(NamedTuple):
    """How a call of `nodetap` ended."""

    code: int
    out: bytes
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def said(self) -> dict[str, Any]:
        """The completeness beside NDJSON."""
        return dict(json.loads(self.err.splitlines()[-1]))


def tcp(seq: int, agent: str, epoch: int, shift: int) -> Any:
    """Twenty packets, every second one TCP, between those of the other agent in time."""
    columns = packet_columns(20, 1 + (seq - 1) * 20)
    layers = np.where(np.arange(20) % 2, LAYERS, int(Has.TIME)).astype(columns["layers"].dtype)  # type: ignore[union-attr]
    return packets(seq, 20, agent, epoch, layers=layers, time=columns["time"] + shift)  # type: ignore[operator]


def run_of(agent: str, epoch: int, shift: int) -> list[Any]:
    """All batches of one run, which ends in good order."""
    entry = flows(3, agent=agent, epoch=epoch)
    assert entry.columns is not None
    numbers = np.arange(1, 5, dtype="<u8")
    whole = entry.columns | {"flow_only": numbers * 0, "bytes": numbers * epoch, "packets_rev": numbers * 0}
    ledger = {"captured": 40, "rows": 40, "flow_packets": 40}
    return [
        tcp(1, agent, epoch, shift), tcp(2, agent, epoch, shift),
        replace(entry, message=replace(entry.message, flow_only=0, packets=40), columns=whole),
        tombstone(4, 0, agent, epoch, kind="report", reason="", final=1, ledger=ledger),
    ]  # fmt: skip


ONE, TWO = run_of("web-1", 7, 0), run_of("db-1", 9, 500)


def hub_with(folder: Path, entries: list[Any], *args: str) -> Hub:
    """A hub whose store has these."""
    folder.mkdir()
    store = Store(f"chdb://{folder / 'store'}")
    store.open(time.time_ns())
    store.commit(entries, time.time_ns())
    store.close()
    return Hub(folder, *args)


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Hub]]:
    """Two hubs, and one that has all that both have."""
    home = tmp_path_factory.mktemp("regions")
    found = [hub_with(home / name, entries) for name, entries in (("a", ONE), ("b", TWO), ("all", [*ONE, *TWO]))]
    with ending(*found):
        yield [hub.ready() for hub in found]


@pytest.fixture
def ask(capfdbinary: Any) -> Any:
    """`nodetap --hub-url ... WORDS` in this process."""

    def asked(urls: list[str], *words: str, options: tuple[str, ...] = ()) -> Done:
        capfdbinary.readouterr()
        code = run([*(word for url in urls for word in ("--hub-url", url)), *options, *words])
        out, err = capfdbinary.readouterr()
        return Done(code, out, err.decode())

    return asked


@pytest.mark.parametrize(
    "words",
    [
        ("packets", "-o", "ndjson"),
        ("packets", "-o", "json", "--limit", "0"),
        ("packets", "-o", "ndjson", "--limit", "7"),
        ("packets", "-o", "csv", "--limit", "0"),
        ("packets", "-o", "arrow", "--limit", "0"),
        (
            "packets",
            "-o",
            "ndjson",
            "--fields",
            "frame.len,tcp.srcport,vlan.id",
            "--sort",
            "tcp.srcport:desc,frame.len",
        ),
        ("packets", "-o", "csv", "--fields", "frame.len", "--sort", "vlan.id,frame.len:desc", "--limit", "9"),
        ("packets", "-o", "ndjson", "--fields", "frame.len", "--sort", "ip.src", "tcp"),
        ("flows", "-o", "ndjson"),
        ("flows", "-o", "ndjson", "--by", "nodetap.epoch", "--top", "1"),
        ("flows", "-o", "csv", "--by", "nodetap.iface"),
        ("flows", "-o", "ndjson", "--by", "ip.src", "--sort", "flow.packets"),
        ("map", "-o", "dot", "--by", "address"),
    ],
    ids=" ".join,
)
def test_several_hubs_answer_as_one_that_has_it_all(hubs: list[Hub], ask: Any, words: tuple[str, ...]) -> None:
    a, b, everything = (hub.api for hub in hubs)
    together, alone = (ask(urls, *words, "--since", "all", "--strict") for urls in ([a, b], [everything]))
    assert (together.code, alone.code) == (0, 0), together.err
    if "arrow" in words:
        from pyarrow import ipc

        assert ipc.open_stream(together.out).read_all() == ipc.open_stream(alone.out).read_all()
    elif "dot" in words:
        assert together.out.replace(b" of 2 hubs", b"") == alone.out
    else:
        assert together.out == alone.out
        said = together.said
        assert (said["complete"], said["agents"]) == (True, ["db-1", "web-1"])
        assert [hub["hub"] for hub in said["hubs"]] == [a, b]


def test_tables_name_the_hubs(hubs: list[Hub], ask: Any) -> None:
    urls = [hub.api for hub in hubs[:2]]
    done = ask(urls, "packets", "--since", "all", "--limit", "0")
    assert done.out.decode().splitlines()[-1] == "complete: 2 agents of 2 hubs, no gaps"
    agents = ask(urls, "agents", "-o", "json")
    assert [(agent["agent"], agent["hub"]) for agent in json.loads(agents.out)] == [
        ("db-1", urls[1]),
        ("web-1", urls[0]),
    ]
    ledger = ask(urls, "ledger")
    assert ledger.code == 0
    assert all(url in ledger.out.decode() for url in urls)
    assert ledger.out.decode().splitlines()[-1] == "balanced, complete"
    parquet = ask(urls, "packets", "--since", "all", "-o", "parquet")
    assert parquet.out[:4] == parquet.out[-4:] == b"PAR1"


def test_a_frozen_hub_costs_its_own_rows_and_is_named(hubs: list[Hub], ask: Any) -> None:
    urls = [hub.api for hub in hubs[:2]]
    hubs[1].send(signal.SIGSTOP)
    try:
        done = ask(urls, "packets", "--since", "all", "-o", "ndjson", "--strict", options=("--hub-deadline", "6"))
        assert (done.code, {row["nodetap.agent"] for row in done.rows}) == (4, {"web-1"})
        assert [(part["hub"], "does not answer" in part["reason"]) for part in done.said["missing"]] == [
            (urls[1], True)
        ]
        done = ask(urls, "packets", "--since", "all", options=("--hub-deadline", "6"))
        assert done.code == 0
        last = done.out.decode().splitlines()[-1]
        assert last.startswith(f"INCOMPLETE: hub {urls[1]} missing (hub unresponsive: it takes connections"), last
        for words, code in ((("agents",), 4), (("ledger",), 4), (("top", "--once"), 4), (("flows", "-o", "csv"), 4)):
            done = ask(urls, *words, "--strict", options=("--hub-deadline", "6"))
            assert (done.code, urls[1] in done.out.decode() + done.err) == (code, True), done
    finally:
        hubs[1].send(signal.SIGCONT)


def test_a_hub_that_refuses_or_is_not_there_is_named(hubs: list[Hub], ask: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a" * 32)
    other = tmp_path / "other"
    other.write_text("b" * 32)
    guarded = hub_with(tmp_path / "guarded", TWO, "--token-file", str(token))
    nobody = f"http://127.0.0.1:{free_port()}"
    with ending(guarded):
        guarded.ready()
        urls = [hubs[0].api, guarded.api, nobody]
        words = ("packets", "--since", "all", "-o", "ndjson", "--strict", "--limit", "0")
        done = ask(urls, *words, options=("--token-file", str(other)))
        assert (done.code, len(done.rows)) == (4, 40)
        reasons = {part["hub"]: part["reason"] for part in done.said["missing"]}
        assert "wants a token" in reasons[guarded.api]
        assert "cannot reach the hub" in reasons[nobody]
        files = (str(other), str(token), str(other))
        done = ask(urls, *words, options=tuple(word for file in files for word in ("--token-file", file)))
        assert (done.code, len(done.rows), len(done.said["missing"])) == (4, 80, 1)
        done = ask([nobody, guarded.api], *words)
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert nobody in done.err
        assert guarded.api in done.err


def test_what_is_wrong_for_all_is_said_as_of_one(hubs: list[Hub], ask: Any) -> None:
    urls = [hub.api for hub in hubs[:2]]
    done = ask(urls, "packets", "tcp.prot == 1")
    assert (done.code, "tcp.port" in done.err, "\n" in done.err.strip()) == (2, True, True)
    assert ask(urls, "fields").code == 0
    assert ask(urls, "packets", "tcp", "--explain").code == 0
    assert ask(urls, "agents", options=("--token-file", "x", "--token-file", "y", "--token-file", "z")).code == 2


def test_a_hub_that_dies_in_the_middle_is_named(tmp_path: Path) -> None:
    """Rows of the others come to their end, and those that it had sent are there too."""
    entries = [packets(seq, MANY // 2, "b", 9) for seq in (1, 2)]
    short, dying = hub_with(tmp_path / "a", ONE), hub_with(tmp_path / "b", entries)
    with ending(short, dying):
        clients = [Client(Settings(hub.ready().api)) for hub in (dying, short)]
        with Regions(clients, 30.0) as regions:
            asked = {"since": "all", "limit": 0, "format": "ndjson"}
            with regions.stream("/v1/packets", asked) as (_, chunks):
                found = next(chunks)
                dying.send(signal.SIGKILL)
                found += b"".join(chunks)
            *rows, end = map(json.loads, found.splitlines())
            said = end["nodetap.completeness"]
            assert sum(row["nodetap.agent"] == "web-1" for row in rows) == 40
            assert 0 < len(rows) < MANY
            assert [part["hub"] for part in said["missing"]] == [dying.api]
            assert not said["complete"]
            again = regions.get("/v1/packets", {"since": "all", "completeness": "only"})
            assert [part["hub"] for part in again["missing"]] == [dying.api]


def test_times_of_rows_stand_in_one_order(hubs: list[Hub], ask: Any) -> None:
    done = ask(
        [hub.api for hub in hubs[:2]], "packets", "--since", str(NOW), "-o", "ndjson", "--fields", "frame.time_epoch"
    )
    times = [row["frame.time_epoch"] for row in done.rows]
    assert times == sorted(times)
    assert len(set(times)) == 80


def test_follow_goes_on_at_its_place_at_every_hub(hubs: list[Hub], ask: Any) -> None:
    urls = [hub.api for hub in hubs[:2]]
    words = ("follow", "-o", "ndjson", "--strict", "--fields", "nodetap.agent,frame.number")
    every = ask(urls, *words, "--since", "all", "--limit", "80")
    assert every.code == 0, every.err
    assert sorted((row["nodetap.agent"], row["frame.number"]) for row in every.rows) == [
        (agent, number) for agent in ("db-1", "web-1") for number in range(1, 41)
    ]
    for agent in ("db-1", "web-1"):
        numbers = [row["frame.number"] for row in every.rows if row["nodetap.agent"] == agent]
        assert numbers == sorted(numbers)
    cursor = every.rows[29]["nodetap.cursor"]
    rest = ask(urls, *words, "--cursor", cursor, "--limit", "50")
    found = [(row["nodetap.agent"], row["frame.number"]) for row in every.rows[:30] + rest.rows]
    assert len(set(found)) == len(found) == 80
    assert ask(urls[:1], *words, "--cursor", cursor, "--limit", "1").code == 2
    assert ask([*urls, urls[0] + "/x"], *words, "--cursor", cursor, "--limit", "1").code == 2


def test_follow_goes_on_with_the_hubs_that_are_there(hubs: list[Hub], ask: Any, tmp_path: Path) -> None:
    """One is not there yet and comes; one never is."""
    folder = tmp_path / "late"
    late = hub_with(folder, TWO)
    late.kill()
    nobody = f"http://127.0.0.1:{free_port()}"
    urls = [hubs[0].api, late.api, nobody]
    again = threading.Timer(1.0, lambda: started.append(late.again()))
    started: list[Hub] = []
    again.start()
    try:
        words = ("follow", "-o", "ndjson", "--since", "all", "--limit", "80", "--give-up", "90", "--strict")
        done = ask(urls, *words, "--fields", "nodetap.agent")
        assert (done.code, len(done.rows)) == (4, 80), done.err
        assert {part["hub"] for part in done.said["missing"]} == {nobody}
    finally:
        again.join()
        for hub in started:
            hub.kill()
    done = ask([nobody, nobody.replace("127.0.0.1", "127.0.0.2")], "follow", "--give-up", "0.5")
    assert done.code == 3
