"""The table of docs/reliability.md: made of what tests recorded, complete, and of tests that exist."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import reliability
from reliability import Row

TEST = "tests/faults/test_states.py::test_each_state_is_reached_and_seen"


def row(scenario: str = "1", form: str = "scaled", measured: str = "3.2 s", fault: str = "hub stopped") -> Row:
    return Row(scenario, fault, "within 4 s", measured, form, "2026-11-21", TEST)


def test_a_page_gives_back_the_rows_it_was_made_of() -> None:
    rows = [row("2", measured="a | b"), row("6b", "full")]
    assert reliability.written(f"x{reliability.BEGIN}\n{reliability.table(rows)}{reliability.END}y") == rows


def test_the_last_figure_counts_and_a_full_one_gives_way_only_to_another() -> None:
    assert reliability.newest([row(measured="1"), row(measured="2")]) == [row(measured="2")]
    assert reliability.newest([row(form="full"), row(measured="2")]) == [row(form="full")]
    assert reliability.newest([row(), row(form="full")]) == [row(form="full")]
    assert reliability.newest([row(fault="a"), row(form="full", fault="b")]) == [row(form="full", fault="b")]
    kinds = [row("10"), row("2", fault="b"), row("2", fault="a")]
    assert reliability.newest(kinds) == kinds[::-1]


def test_what_was_recorded_becomes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(reliability.TESTS))
    from figures import record

    path = tmp_path / "figures" / "all.jsonl"
    monkeypatch.setenv("NODETAP_FIGURES", str(path))
    monkeypatch.setenv("NODETAP_FAULTS", "full")
    record("6b", "one agent is slow", "others 20 % at most", "7 %")
    record("7", "loop blocked", "told in 2 s", "1.6 s")
    assert len(path.read_text().splitlines()) == 2
    first, second = reliability.measured(path)
    assert (first.scenario, first.form, first.measured) == ("6b", "full", "7 %")
    assert json.loads(path.read_text().splitlines()[0])["day"] == first.day
    assert second.test == "tests/test_reliability.py::test_what_was_recorded_becomes_rows"


def test_a_scenario_that_is_none_is_told() -> None:
    for bad in ("23", "0", "b"):
        with pytest.raises(ValueError, match="no scenario"):
            reliability.number_of(bad)


def test_rows_of_the_page_are_of_tests_that_exist() -> None:
    rows = reliability.written(reliability.PAGE.read_text())
    assert [r for r in rows if not reliability.exists(r)] == []


def test_scenarios_are_found_where_they_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text('def test_a(how):\n    record("2" if how == "kill" else "3a", "", "", "")\n')
    assert reliability.recorded(tmp_path) == {s: {"tests/faults/test_a.py::test_a"} for s in ("2", "3a")}


def test_every_scenario_has_a_test_that_records_it() -> None:
    assert reliability.missing() == []
