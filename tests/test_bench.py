"""The benchmarks: programs read every frame, figures come out where parts are missing. Speed is not looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from procs import Hub, ending, until

from bench.agents import agents_table, fitted
from bench.capture import Capture
from bench.curve import curve_table
from bench.decode import PEERS, Peer, entrants_of
from bench.hundred import hundred_table
from bench.load import Load
from bench.make_pcap import generated, ip_header, read_classic, write
from bench.race import Entrant, race
from bench.recording import LEAST, record
from bench.wire import bytes_by_kind
from protocol.codec import unpack_body
from protocol.ledger import Held, Report, settle

ROOT = Path(__file__).resolve().parent.parent
FRAMES = 900
IN_A_ROUND = 300


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Three rounds of generated traffic."""
    path = tmp_path_factory.mktemp("bench") / "small.pcap"
    write(path, [generated()[:IN_A_ROUND]], FRAMES)
    return Capture(path)


def test_a_capture_knows_its_rounds(capture: Capture) -> None:
    assert (capture.frames, capture.round) == (FRAMES, IN_A_ROUND)


@pytest.mark.parametrize(("wanted", "got"), [(1, 300), (440, 300), (460, 600), (5000, 900)])
def test_a_cut_is_whole_rounds_from_the_beginning(capture: Capture, tmp_path: Path, wanted: int, got: int) -> None:
    path, frames = capture.cut(wanted, tmp_path)
    assert frames == got
    assert read_classic(path) == read_classic(capture.path)[:got]


def test_a_capture_that_does_not_repeat_is_one_round(tmp_path: Path) -> None:
    write(tmp_path / "once.pcap", [generated()[:IN_A_ROUND]], IN_A_ROUND)
    assert Capture(tmp_path / "once.pcap").round == IN_A_ROUND


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_reads_all_frames(peer: Peer, capture: Capture) -> None:
    for entrant in entrants_of(peer, capture.path, FRAMES):
        if entrant.missing:
            pytest.skip(f"{entrant.name}: {entrant.missing}")
        said = subprocess.run(list(map(str, entrant.command)), check=True, capture_output=True, text=True).stdout
        if peer.name == "tshark":
            assert len(said.splitlines()) == FRAMES
        else:
            without_ip = sum(ip_header(frame.data)[1] == 0 for frame in read_classic(capture.path))
            assert int(said.split()[-1]) == FRAMES - (without_ip if peer.name == "NFStream" else 0)


def test_a_race_is_run_on_one_core_and_goes_on_without_who_fails() -> None:
    core = max(os.sched_getaffinity(0))
    pinned = f"import os; assert os.sched_getaffinity(0) == {{{core}}}"
    entrants = [
        Entrant("pinned", [sys.executable, "-c", pinned], 10),
        Entrant("fails", [sys.executable, "-c", "raise SystemExit('no such thing')"], 10),
        Entrant("missing", missing="not installed"),
    ]
    fine, failed, missing = race(entrants, 3, core)
    assert (len(fine.seconds), fine.problem) == (3, "")
    assert fine.rate > 0
    assert (len(failed.seconds), failed.words, failed.rate) == (1, "failed with 1: no such thing", 0)
    assert missing.words == "not installed"


def test_the_wire_costs_the_same_each_time(capture: Capture) -> None:
    fast = bytes_by_kind(capture, "fast")
    assert fast == bytes_by_kind(capture, "fast")
    assert set(fast) >= {"packets", "flows", "books"}
    assert fast["packets"] >= bytes_by_kind(capture, "off")["packets"] > FRAMES


def test_the_table_has_a_line_for_a_peer_that_is_missing(capture: Capture, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "bench" / "run.py", capture.path, "--only", "decode", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 1, done.stderr  # a capture that small keeps no target
    assert "| tshark -T fields, frames/s | not installed (apt-get install tshark) |" in done.stdout
    assert "| decode --l7 fast, frames/s | " in done.stdout
    assert "| **missed** |" in done.stdout


def test_an_unknown_bench_is_refused() -> None:
    command = [sys.executable, ROOT / "bench" / "run.py", "none.pcap", "--only", "decode,speed"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no speed; there are decode, wire, end-to-end, questions, help" in done.stderr


def test_a_recorded_batch_is_sent_with_new_numbers_and_times(capture: Capture) -> None:
    segments = record(capture.path, 100.0)
    assert len(segments) == LEAST
    before, begin = Report(captured=1_000, rows=1_000, flow_packets=1_000), 10**18
    casts = segments[1].casts
    batches = [cast.sent("web", 5, n + 8, begin, before) for n, cast in enumerate(casts)]
    columns = {kind: [unpack_body(b)[0] for b in batches if b.kind == kind] for kind in ("packets", "flows")}
    numbers = np.concatenate([part["frame_number"] for part in columns["packets"]])
    assert numbers.tolist() == [*range(1_001, 1_001 + FRAMES // LEAST)]
    times = np.concatenate([part["time"] for part in columns["packets"]])
    assert begin < times[0] <= times[-1] <= begin + segments[1].seconds * 1e9
    assert (np.diff(times) >= 0).all()
    assert all(begin < start.min() for start in (part["start"] for part in columns["flows"]))
    assert [(b.agent, b.epoch, b.seq) for b in batches] == [("web", 5, n + 8) for n in range(len(batches))]
    held = Held(rows=1_000, flow_packets=1_000)
    for batch in batches:
        held.add(batch.kind, batch.rows, batch.packets, batch.flow_only)
        assert settle(Report.from_map(batch.ledger), held).balanced
    assert settle(Report.from_map(batches[-1].ledger), held).pending == 0


def test_agents_of_the_load_generator_keep_true_books(capture: Capture, tmp_path: Path) -> None:
    hub = Hub(tmp_path).ready()
    load = Load(tmp_path, hub.ws, capture.path, 3, 100.0)
    with ending(hub, load):
        load.all_streaming(60)
        load.begin()
        until("each sends", lambda: load.now("rows") > FRAMES)
        load.pause()
        told, books = load.told(), hub.ledger()
    assert books["balanced"]
    assert {b["agent"]: b["row"] for b in books["agents"]} == {agent["name"]: agent["rows"] for agent in told}
    assert all(agent["drained"] and len(agent["waits"]) == agent["batches"] + 1 for agent in told)


def test_the_model_of_a_hub_is_what_its_runs_were_made_of() -> None:
    runs = [
        {"agents": agents, "rows": 1_000_000, "batches": batches, "seconds": 10.0, "idle": agents * 1e-4,
         "with_merges": 10.0 * agents * 1e-4 + batches * 2e-4 + 1_000_000 * 1.5e-6}
        for agents, batches in ((10, 100), (100, 900), (1_000, 8_000))
    ]  # fmt: skip
    model = fitted(runs)
    assert (model.agent, model.batch, model.row) == pytest.approx((1e-4, 2e-4, 1.5e-6))
    assert model.cores(10_000, 0, 0) == pytest.approx(1.0)


def test_the_tables_of_scale_have_a_line_for_each_figure() -> None:
    run = {"agents": 10, "asked": 1e4, "rows": 10**6, "batches": 10, "seconds": 10.0, "idle": 0.01, "cpu": 1.0,
           "with_merges": 1.9, "p50": 0.2, "p99": 0.5, "late": 0.0, "rss": 10**8, "rss_peak": 10**9, "bytes": 17.2,
           "all_bytes": 19.0, "verdicts_right": 10, "balanced": True}  # fmt: skip
    shown = agents_table([run, run | {"agents": 100, "batches": 1_000}])
    assert "| the same until merges are done | 1.90 | 1.90 | ≤ 2.0 |" in shown
    assert "10,000 nodes" in shown
    point = {"codec": "LZ4", "insert": 65_536, "unpack": 0.5, "commit": 1.0, "merges": 0.25, "bytes": 20.0,
             "all_bytes": 22.0, "rss": 10**9}  # fmt: skip
    assert "| LZ4 | 65,536 | 0.50 | 1.00 | 0.25 | 1.75 | 20.0 | 22.0 | 1000 |" in curve_table([point])
    asked = {"rows": 10**8, "bytes": 21.0, "selective": [0.1] * 20, "top": [1.0], "rollup": [0.1]}
    assert hundred_table(asked).count("\n") == 6
