"""Child processes that never outlive us: started with a death signal, their words kept in a log file."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hub.cli.errors import USAGE, CliError

PR_SET_PDEATHSIG = 1  # prctl(2)


def program(name: str) -> str:
    """The path of one of our programs: beside this interpreter, else on PATH. Raises CliError (usage)."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise CliError(f"{name} is not installed: pip install 'nodetap[all]'", USAGE)
    return found


def die_with_parent() -> None:
    """Between fork and exec: SIGTERM when the parent's thread ends, and at once where it already has."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """A running program. Its stdout and stderr are appended to `log`."""

    def __init__(self, arguments: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = Path(arguments[0]).name
        self.log = log
        with log.open("ab") as out:
            self._begin = out.tell()
            self._process = subprocess.Popen(
                arguments,
                stdin=None if "-" in arguments else subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # Ctrl-C is for us: we say who stops first
                preexec_fn=die_with_parent,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM)."""
        if self.code is None:
            self._process.terminate()

    def wait(self, timeout: float) -> int | None:
        """The exit code, None where it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self.code is None:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The last line of its output that is meant for people, else its last line."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            lines = [
                line.strip() for line in file.read()[-65536:].decode(errors="replace").splitlines() if line.strip()
            ]
        spoken = [line for line in lines if not line.startswith("{")]
        return (spoken or lines or [f"{self.name} said nothing"])[-1]
