"""The books: an agent that seals, a hub that holds any part of it, and what settles between them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger import LOST, QUARANTINED, Books, Held, Report, at_least, is_reason, settle

PACKETS = st.integers(0, 1000)
REASONS = [*LOST, "from_a_newer_version"]


@dataclass
class Run:
    """A simulated run: the agent's last report, what the hub holds, and where every packet really is."""

    report: Report
    held: Held
    row: int = 0
    flow_only: int = 0
    lost: int = 0
    quarantined: int = 0
    pending: int = 0
    flow_pending: int = 0


def place(run: Run, fate: str, kind: str, rows: int, packets: int, flow_only: int, reason: str) -> None:
    """One sealed batch meets its fate. `stake` are the packets whose own fate it decides."""
    stake = rows if kind == "packets" else flow_only
    if fate == "stored":
        run.held.add(kind, rows, packets, flow_only)
        run.row += rows if kind == "packets" else 0
        run.flow_only += flow_only
    elif fate == "pending":
        run.pending += stake
        run.flow_pending += packets if kind == "flows" else 0
    else:
        run.held.add(kind, 0, packets, flow_only, QUARANTINED if fate == "quarantined" else reason)
        if fate == "quarantined":
            run.quarantined += stake
        else:
            run.lost += stake


@st.composite
def runs(draw: st.DrawFn) -> Run:
    run = Run(Report(), Held())
    fates = st.sampled_from(["stored", "pending", "lost", "quarantined"])
    for rows in draw(st.lists(PACKETS, max_size=6)):  # packet batches
        run.report.captured += rows
        run.report.rows += rows
        place(run, draw(fates), "packets", rows, rows, 0, draw(st.sampled_from(REASONS)))
    covered = run.report.rows  # flows cover every packet: those with rows and those without
    for flow_only in draw(st.lists(PACKETS, max_size=6)):  # flow batches
        with_rows = draw(st.integers(0, covered))
        covered -= with_rows
        run.report.captured += flow_only
        run.report.flow_only += flow_only
        run.report.flow_packets += flow_only + with_rows
        reason = draw(st.sampled_from(REASONS))
        place(run, draw(fates), "flows", 3, flow_only + with_rows, flow_only, reason)
    run.report.open = draw(PACKETS)
    run.report.captured += run.report.open
    run.report.flow_open = covered + run.report.open
    run.pending += run.report.open
    run.flow_pending += run.report.flow_open
    for reason in draw(st.lists(st.sampled_from(REASONS), unique=True)):  # lost before a batch was sealed
        run.report.lost[reason] = draw(PACKETS)
    run.lost += sum(run.report.lost.values())
    run.report.captured += sum(run.report.lost.values())
    return run


@given(runs())
def test_every_packet_has_the_fate_it_had(run: Run) -> None:
    books = settle(run.report, run.held)
    assert run.report.conserved
    assert books.balanced
    assert (books.row, books.flow_only, books.quarantined) == (run.row, run.flow_only, run.quarantined)
    assert (sum(books.lost.values()), books.pending) == (run.lost, run.pending)
    assert books.captured == books.row + books.flow_only + run.lost + books.quarantined + books.pending
    assert books.flow_packets + books.flow_lost + books.flow_pending == run.report.flow_packets + run.report.flow_open
    assert books.flow_pending == run.flow_pending


@given(runs(), st.sampled_from(["captured", "rows", "flow_only", "open"]), st.integers(-50, 50).filter(bool))
def test_a_wrong_number_of_the_agent_is_seen(run: Run, name: str, by: int) -> None:
    wrong = replace(run.report, **{name: getattr(run.report, name) + by})
    assert not wrong.conserved
    assert not settle(wrong, run.held).balanced


@given(runs(), st.integers(1, 50))
def test_a_loss_that_is_not_captured_is_seen(run: Run, by: int) -> None:
    assert not settle(replace(run.report, lost={**run.report.lost, "shed": 5000 + by}), run.held).balanced


@given(runs(), st.sampled_from(["rows", "flow_only", "flow_packets", "quarantined", "quarantined_flow_only"]))
def test_a_hub_that_holds_more_than_was_sealed_is_seen(run: Run, name: str) -> None:
    sealed = run.report.rows + run.report.flow_only + run.report.flow_packets
    more = replace(run.held, **{name: getattr(run.held, name) + sealed + 1})
    assert not settle(run.report, more).balanced


@given(runs())
def test_a_batch_stored_twice_is_seen_once_nothing_is_pending(run: Run) -> None:
    run.held.add("packets", run.report.rows - run.held.rows + 1, 0, 0)
    assert not settle(run.report, run.held).balanced


def test_flows_that_cover_more_than_was_captured_are_seen() -> None:
    assert settle(Report(captured=5, rows=5, flow_packets=3, flow_open=2), Held()).balanced
    assert not settle(Report(captured=5, rows=5, flow_packets=3, flow_open=3), Held()).balanced


def test_a_refused_flow_batch_is_quarantined_and_not_lost() -> None:
    held = Held()
    held.add("flows", 0, 10, 4, QUARANTINED)
    held.add("packets", 0, 3, 0, QUARANTINED)
    books = settle(Report(captured=10, rows=6, flow_only=4, flow_packets=10), held)
    assert (books.quarantined, books.lost, books.pending, books.flow_lost, books.balanced) == (7, {}, 3, 10, True)


def test_reports_and_other_kinds_move_nothing() -> None:
    held = Held()
    held.add("report", 1, 1, 1)
    held.add("report", 1, 1, 1, "shed")
    assert held == Held()


COUNTS = st.integers(0, 50)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """A report of an older moment: true to its own law, and short of what a hub may hold by now."""
    report = Report(rows=draw(COUNTS), flow_only=draw(COUNTS), open=draw(COUNTS), lost={"capture_error": draw(COUNTS)})
    report.captured = report.rows + report.flow_only + report.lost["capture_error"] + report.open
    report.flow_packets = draw(st.integers(0, report.captured))
    report.flow_open = report.captured - report.flow_packets
    return report


@given(reports(), runs())
def test_a_recovered_report_covers_what_is_held(report: Report, run: Run) -> None:
    covering = at_least(report, run.held)
    assert covering.conserved
    assert covering.captured >= report.captured
    assert settle(covering, run.held).balanced
    assert at_least(covering, run.held) == covering


@given(runs())
def test_a_report_that_covers_all_stays_as_it_is(run: Run) -> None:
    assert at_least(run.report, run.held) == run.report


@given(runs())
def test_a_report_comes_back_from_its_map(run: Run) -> None:
    values = run.report.to_map()
    assert Report.from_map(values) == run.report
    assert Report.from_map({**values, "future": 1, "": None}) == run.report
    values["lost"]["shed"] = 9**9
    assert Report.from_map(values) != run.report


@pytest.mark.parametrize("wrong", [True, -1, 2**63, 1.0, "1", None, [1], {"shed": 1}])
def test_a_wrong_count_is_absent(wrong: object) -> None:
    report = Report.from_map({"captured": wrong, "lost": {"shed": wrong, "in_doubt": 1}, "discarded": wrong})
    assert report == Report(lost={"in_doubt": 1}, discarded=report.discarded)
    assert report.discarded == ({"shed": 1} if isinstance(wrong, dict) else {})


def test_reasons_are_words_and_not_many() -> None:
    odd = {"": 1, "two words": 1, 7: 1, b"shed": 1, "x" * 41: 1, "né": 1, 'a"b': 1, "shed\n": 1, "shed": 2}
    assert Report.from_map({"lost": odd}).lost == {"shed": 2}
    assert len(Report.from_map({"lost": {f"r{i}": 1 for i in range(1000)}}).lost) == 64
    assert all(is_reason(reason) for reason in [*LOST, QUARANTINED])


def test_books_show_every_field() -> None:
    assert set(settle(Report(), Held()).to_map()) == {f.name for f in fields(Books)}
