"""kill -9 at random moments, and exactly at the rename that publishes a part: nothing acknowledged is lost, nothing
is there in part, nothing is there twice, and the books say what is there."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from figures import record
from store_rows import NOW, alternating

from hub.store.store import Store
from protocol.ledger import settle

TESTS = Path(__file__).parent.parent
CHILD = [sys.executable, str(Path(__file__).parent / "store_child.py")]
ENV = os.environ | {
    "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
    "PYTHONDONTWRITEBYTECODE": "1",
}  # writing a .pyc renames too
RENAMES = "rename,renameat,renameat2"

PER_BATCH = """
SELECT epoch, seq, count(), uniqExact(commit) FROM (
    SELECT epoch, seq, commit FROM packets UNION ALL SELECT epoch, seq, commit FROM flows)
GROUP BY epoch, seq"""


def acknowledged(output: str) -> int:
    """The last commit the child said it had done."""
    numbers = [int(line) for line in output.split() if line.isdigit()]
    return max(numbers, default=0)


def check(url: str, rows: int, acked: int) -> int:
    """Every law of the store after a crash; then send everything again, as an agent would. Returns what was held."""
    store = Store(url)
    store.open(NOW)
    try:
        with store.reader() as reader:
            present = {seq: (count, commits) for _, seq, count, commits in reader.rows(PER_BATCH, timeout=30)}
            lines = dict(reader.rows("SELECT seq, count() FROM batches GROUP BY seq", timeout=30))
        for seq, (count, commits) in present.items():
            assert (count, commits) == (rows if seq % 2 else 10, 1), f"batch {seq} is there in part or twice"
        runs = store.epochs()
        held = {seq for run in runs for first, last in run.seqs for seq in range(first, last + 1)}
        assert held == set(present) == set(lines), "the books do not say what is there"
        assert set(lines.values()) <= {1}
        assert held >= set(range(1, 2 * acked + 1)), "what was acknowledged is lost"
        for run in runs:
            report = run.report
            assert report.conserved
            assert settle(report, run.held).balanced
        send_again(store, rows, max(held, default=0) + 4)
        return len(held)
    finally:
        store.close()


def send_again(store: Store, rows: int, last: int) -> None:
    last += last % 2
    commit = store.committed()
    entries = [alternating(seq, rows) for seq in range(1, last + 1)]
    assert store.commit(entries, NOW) == commit + 1
    assert [list(run.seqs) for run in store.epochs()] == [[(1, last)]]
    with store.reader() as reader:
        counted = reader.rows("SELECT count(), uniqExact(frame_number) FROM packets", timeout=30)
        commits = reader.rows("SELECT uniqExact(commit), max(commit) FROM batches", timeout=30)
    assert counted == [(rows * last // 2,) * 2]
    assert commits[0][1] == commit + 1, "a commit number was used again"


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_moment(tmp_path: Path, seed: int) -> None:
    url, rows, done = f"chdb://{tmp_path}/store", 20_000, 0
    chance = random.Random(seed)
    for _ in range(3):  # the second and third life begin in what the one before left
        with subprocess.Popen(
            [*CHILD, url, str(done + 1), "400", str(rows)], stdout=subprocess.PIPE, text=True, env=ENV
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n", "the store did not open after a crash"
            child.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))  # the moment is the experiment
            child.kill()
            done = max(acknowledged(child.stdout.read()), done + 1)
    assert done < 400
    held = check(url, rows, done)
    record("5", "the store SIGKILLed at random moments", "what is acknowledged is on disk, nothing in part or twice",
           f"killed three times, {done} commits acknowledged, {held} batches held, each whole")  # fmt: skip


def strace() -> str:
    """strace, where it may trace and inject; skips with the reason where not."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    probe = subprocess.run(
        [path, "-e", "inject=getpid:signal=SIGUSR1:when=1000", "true"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"strace cannot trace here: {probe.stderr.decode(errors='replace').strip()[:100]}")
    return path


def traced(url: str, tmp_path: Path, inject: str, commits: int) -> tuple[int, int, str]:
    """The child under strace: its return code, the last commit it acknowledged, the renames it did."""
    trace = tmp_path / "trace"
    command = [strace(), "-f", "-o", str(trace), "-e", f"trace={RENAMES}", *(["-e", inject] if inject else [])]
    result = subprocess.run(
        [*command, *CHILD, url, "1", str(commits), "3000"],
        capture_output=True,
        text=True,
        env=ENV,
        timeout=120,
        check=False,
    )
    return result.returncode, acknowledged(result.stdout), trace.read_text()


def renames(trace: str) -> list[tuple[str, str]]:
    """(system call, line) of the thread that inserts: strace counts per thread, and merges rename in others."""
    calls = re.findall(r"^(\d+) +(rename\w*)\((.*)$", trace, re.MULTILINE)
    return [(call, rest) for pid, call, rest in calls if pid == calls[0][0]]


def publishing(trace: str) -> tuple[str, list[int]]:
    """The call that publishes parts (processors differ), and which of its uses do: strace counts by call."""
    call = next(call for call, rest in renames(trace) if "tmp_insert_" in rest)
    same = [rest for name, rest in renames(trace) if name == call]
    return call, [number for number, rest in enumerate(same, 1) if "tmp_insert_" in rest]


def test_killed_before_each_rename_that_publishes_a_part(tmp_path: Path) -> None:
    """Between a part's last byte and its name: of packets, of flows, of batches, in turn."""
    code, acked, trace = traced(f"chdb://{tmp_path}/whole", tmp_path, "", 3)
    assert (code, acked) == (0, 3)
    call, numbers = publishing(trace)
    assert len(numbers) == 9, "three commits of three inserts publish nine parts"
    found = set()
    for number in numbers:
        url = f"chdb://{tmp_path}/killed-{number}"
        code, acked, trace = traced(url, tmp_path, f"inject={call}:signal=SIGKILL:when={number}", 3)
        assert code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert "tmp_insert_" in renames(trace)[-1][1], "it was killed elsewhere"
        found.add((acked, check(url, 3000, acked)))
    # Killed before packets, flows and batches are published: 0, 1 and 2 batches more than were acknowledged.
    assert found == {(acked, 2 * acked + more) for acked in range(3) for more in range(3)}
    record("5", "the store SIGKILLed before each rename of a part", "what was acknowledged is on disk, nothing in part",
           f"{len(numbers)} renames, all {len(found)} states as they should be")  # fmt: skip
