"""The alarm clock, on processes of their own: what it writes, when it ends one, and what it does not count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from procs import until

from protocol import kernel

pytestmark = pytest.mark.skipif(kernel.load() is None, reason="needs the compiled kernel")

FOREVER = 60.0
PROGRAM = f"""
import ctypes, os, sys, time
FOREVER = {FOREVER}
from protocol.alarm import Alarm

def hold():  # a call that keeps the interpreter's lock
    seconds, library = float(sys.argv[1]), ctypes.PyDLL(None)
    library.usleep(int(seconds * 1e6)) if seconds < FOREVER else library.read(os.pipe()[0], bytes(1), 1)

alarm = Alarm()
alarm.set(*map(float, sys.argv[2:4]))
print("set", flush=True)
hold()
for _ in range(int(sys.argv[4])):
    alarm.beat()
    time.sleep(0.1)
"""


class Program:
    def __init__(self, folder: Path, held: float, stacks: float, end: float, beats: int = 0) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-c", PROGRAM, str(held), str(stacks), str(end), str(beats)]
            self.popen = subprocess.Popen(command, stdout=log, stderr=log)
        until("it is set", lambda: "set\n" in self.text)
        self.begun = time.monotonic()

    @property
    def text(self) -> str:
        return self.log.read_text()

    def code(self) -> int:
        return self.popen.wait(60)


def test_stacks_while_a_call_holds_the_lock_and_the_process_goes_on(tmp_path: Path) -> None:
    program = Program(tmp_path, held=2.0, stacks=0.5, end=60.0)
    until("stacks", lambda: "in hold" in program.text, 10)
    assert program.popen.poll() is None
    assert program.code() == 0
    assert program.text.count("in hold") == 1


def test_the_end_with_stacks(tmp_path: Path) -> None:
    program = Program(tmp_path, held=FOREVER, stacks=0.0, end=1.0)
    assert program.code() == 70
    assert time.monotonic() - program.begun < 30.0
    assert program.text.count("in hold") == 1


def test_the_end_also_where_nobody_reads_the_log() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    while True:
        try:
            os.write(write, bytes(65536))
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    command = [sys.executable, "-c", PROGRAM, str(FOREVER), "0.5", "1.5", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=write) as popen:
        try:
            assert popen.wait(30) == 70
        finally:
            popen.kill()
            os.close(read)
            os.close(write)


def test_time_in_which_the_process_was_stopped_is_not_counted(tmp_path: Path) -> None:
    program = Program(tmp_path, held=0.0, stacks=1.0, end=2.0, beats=20)
    os.kill(program.popen.pid, signal.SIGSTOP)
    time.sleep(3.0)  # longer than both: what is waited for is that time itself
    os.kill(program.popen.pid, signal.SIGCONT)
    assert program.code() == 0
    assert "most recent call first" not in program.text


def test_0_is_never(tmp_path: Path) -> None:
    program = Program(tmp_path, held=1.5, stacks=0.0, end=0.0)
    assert program.code() == 0
    assert "most recent call first" not in program.text


@pytest.mark.parametrize("end", [1.0, 60.0])
def test_without_the_kernel_it_ends_the_process_all_the_same(
    tmp_path: Path, end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODETAP_KERNEL", "off")
    program = Program(tmp_path, held=2.0, stacks=0.5, end=end)
    assert program.code() == (-signal.SIGALRM if end == 1.0 else 0)
    assert program.text.count("in hold") == (end == 1.0)
