"""The models, checked by spin over all their states; and that each property refutes the faults it is there for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from promela import Table, table

from agent.uplink.machine import TABLE, Command, Event, State

HERE = Path(__file__).parent
MEGABYTES = 1000
SAFETY = ("acknowledged_is_stored", "stored_once", "rows_or_tombstone", "buffers_are_freed")
"""Of these no fairness is needed, nor a search for cycles."""

pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="spin or gcc is not installed (apt-get install spin gcc)"
)

Check = Callable[..., bool]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Whether a claim of a model holds in all states. Weakly fair: what can go on for ever does so at some time."""
    built: dict[object, Path] = {}

    def holds(model: str, claim: str, *defines: str, of: Table = TABLE) -> bool:
        planted = of is not TABLE or any(define.startswith("BUG") for define in defines)
        how = _how(claim in SAFETY, planted)
        key = model, defines, table(of), how
        if key not in built:
            built[key] = _build(tmp_path_factory.mktemp(model), model, defines, table(of), how[0])
        return _search(built[key], claim, how[1])

    return holds


def _how(safety: bool, planted: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options of the compiler and of the search. What is refuted soon is compiled soon, and is nearest to the start."""
    if safety and planted:
        return ("-O0", "-DBFS"), ()
    return ("-O0" if planted else "-O1", "-DNFAIR=4"), ("-a",) if safety else ("-a", "-f")


def _build(folder: Path, model: str, defines: tuple[str, ...], states: str, options: tuple[str, ...]) -> Path:
    for file in HERE.glob("*.pml"):
        shutil.copy(file, folder)
    (folder / "table.pml").write_text(states)
    spin = ["spin", *(f"-D{define}" for define in defines), "-a", f"{model}.pml"]
    subprocess.run(spin, cwd=folder, check=True, capture_output=True)
    gcc = ["gcc", *options, "-w", "-DCOLLAPSE", f"-DMEMLIM={MEGABYTES}", "-o", "pan", "pan.c"]
    subprocess.run(gcc, cwd=folder, check=True)
    return folder


def _search(folder: Path, claim: str, options: tuple[str, ...]) -> bool:
    out = _run(folder, *options, "-N", claim)
    errors = re.search(r"errors: (\d+)", out)
    assert errors is not None, out
    assert errors[1] != "0" or "Search not completed" not in out, out
    return errors[1] == "0"


def _run(folder: Path, *options: str) -> str:
    run = ["nice", "./pan", "-m100000", *options]
    out = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=250).stdout
    assert "max search depth too small" not in out
    return out


@pytest.mark.parametrize(
    ("model", "claim", "defines"),
    [
        ("delivery", "acknowledged_is_stored", ["N=1"]),
        ("delivery", "stored_once", ["N=1"]),
        ("delivery", "rows_or_tombstone", ["N=1"]),
        ("delivery", "all_is_settled", ["N=1"]),
        ("delivery", "acknowledged_is_stored", ["N=1", "SPOOL"]),
        ("delivery", "stored_once", ["N=1", "SPOOL"]),
        ("delivery", "rows_or_tombstone", ["N=1", "SPOOL"]),
        ("delivery", "all_is_settled", ["N=1", "SPOOL"]),
        ("delivery", "acknowledged_is_stored", ["N=2", "ONE_HUB"]),
        ("delivery", "stored_once", ["N=2", "ONE_HUB"]),
        ("delivery", "rows_or_tombstone", ["N=2", "ONE_HUB"]),
        ("delivery", "all_is_settled", ["N=2", "ONE_HUB"]),
        ("link", "every_stall_ends", []),
        ("link", "work_resumes", []),
        ("link", "buffers_are_freed", []),
        ("link", "whoever_is_told_stops", []),
        ("link", "whoever_is_told_drains", ["NO_DEADLINE"]),
    ],
)
def test_it_holds(check: Check, model: str, claim: str, defines: list[str]) -> None:
    assert check(model, claim, *defines)


@pytest.mark.parametrize(
    ("model", "claim", "defines"),
    [
        ("delivery", "acknowledged_is_stored", ["N=1", "BUG_ACK_EARLY"]),
        ("delivery", "stored_once", ["N=1", "BUG_FORGET_DOUBT"]),
        ("delivery", "stored_once", ["N=1", "BUG_DOUBT_ANYWHERE"]),
        ("delivery", "stored_once", ["N=1", "BUG_NO_DEDUPE"]),
        ("delivery", "stored_once", ["N=1", "BUG_NO_RECOVERY"]),
        ("delivery", "stored_once", ["N=1", "SPOOL", "BUG_NO_MARK"]),
        ("delivery", "stored_once", ["N=1", "SPOOL", "BUG_MARK_KEPT"]),
        ("delivery", "rows_or_tombstone", ["N=1", "BUG_NO_DEDUPE"]),
        ("delivery", "all_is_settled", ["N=1", "BUG_NO_TOMBSTONE"]),
        ("link", "every_stall_ends", ["BUG_NO_PROGRESS"]),
        ("link", "every_stall_ends", ["BUG_NO_ECHO"]),
        ("link", "every_stall_ends", ["BUG_POLITE"]),
        ("link", "whoever_is_told_drains", ["NO_DEADLINE", "BUG_STOP_FORGOTTEN"]),
    ],
)
def test_a_fault_is_refuted(check: Check, model: str, claim: str, defines: list[str]) -> None:
    assert not check(model, claim, *defines)


@pytest.mark.parametrize(
    ("state", "event", "command", "claim"),
    [
        (State.STREAMING, Event.STALLED, Command.ABORT, "work_resumes"),
        (State.STREAMING, Event.LOST, Command.FREE, "buffers_are_freed"),
        (State.DRAINING, Event.STALLED, Command.FREE, "buffers_are_freed"),
        (State.STREAMING, Event.REFUSED, Command.BACK_OFF, "work_resumes"),
        (State.BACKOFF, Event.WAKE, Command.CONNECT, "work_resumes"),
        (State.BACKOFF, Event.DEADLINE, Command.EXIT, "whoever_is_told_stops"),
    ],
)
def test_a_command_that_is_missing_is_refuted(
    check: Check, state: State, event: Event, command: Command, claim: str
) -> None:
    new, commands = TABLE[state, event]
    assert command in commands
    broken = {**TABLE, (state, event): (new, [c for c in commands if c is not command])}
    assert not check("link", claim, of=broken)


def test_the_model_takes_each_transition_of_the_table(tmp_path: Path) -> None:
    options, search = _how(safety=True, planted=False)
    folder = _build(tmp_path, "link", (), table(count=True), options)
    taken = re.search(r"^taken: (\w+)$", _run(folder, *search, "-N", "buffers_are_freed"), re.MULTILINE)
    assert taken is not None
    never = {pair for pair, word in zip(TABLE, taken[1].ljust(len(TABLE), "n"), strict=True) if word == "n"}
    assert never == {(State.CONNECTING, Event.STALLED)}  # detectors judge a link that was welcomed
