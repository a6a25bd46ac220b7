"""A port-forward that is there as long as it is needed: kubectl's, started again when it ends."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Sequence

import click

from hub.cli.children import die_with_parent
from hub.cli.errors import CliError

FIRST = 30.0
"""Seconds that the first forward may take."""
BACKOFF_BASE, BACKOFF_MAX = 0.2, 3.0

_OPEN = re.compile(r"Forwarding from [^ ]*:(\d+) -> ")
_BROKEN = re.compile(
    r"lost connection to pod|error forwarding|an error occurred forwarding|error creating", re.IGNORECASE
)
"""After these kubectl may stay and forward nothing any more."""


class Forward:
    """`command` is kubectl's port-forward but for the ports. In `with`, `port` on localhost leads to `remote`.

    Raises CliError where it cannot be had at first. Later ends are mended, and told on stderr, once for each.
    """

    def __init__(self, command: Sequence[str], remote: int) -> None:
        self.port = 0
        self._command, self._remote = list(command), remote
        self._changed = threading.Condition()
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False
        self._words = ""  # the last that were said
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)

    def __enter__(self) -> Forward:
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self.port or self._stopped, FIRST)
        if not self.port:
            self.__exit__()
            raise CliError(f"no port-forward to the hub: {self._words or f'kubectl said nothing for {FIRST:g} s'}")
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            if self._child is not None:
                self._child.terminate()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while self._start():
            opened = self._listen()
            with self._changed:
                if not self.port:
                    self._stopped = True
                    self._changed.notify_all()
                if self._stopped:
                    return
            if opened:
                click.echo(f"kubectl nodetap: the port-forward ended ({self._words}); making another", err=True)
            failures = 0 if opened else failures + 1
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, min(BACKOFF_MAX, BACKOFF_BASE * 2**failures))

    def _start(self) -> bool:
        """Start kubectl; False where the end has come."""
        ports = f"{self.port or ''}:{self._remote}"
        with self._changed:
            if self._stopped:
                return False
            self._child = subprocess.Popen(
                [*self._command, "--address=127.0.0.1", ports],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,  # Ctrl-C is for us: whoever asks through it ends first
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )  # fmt: skip
        return True

    def _listen(self) -> bool:
        """Until kubectl has ended; whether the port was open."""
        child, opened, self._words = self._child, False, ""
        assert child is not None
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                if found := _OPEN.match(line):
                    opened = True
                    with self._changed:
                        self.port = int(found[1])
                        self._changed.notify_all()
                elif not line.startswith("Handling connection"):
                    self._words = line.strip()
                    if _BROKEN.search(line):
                        child.terminate()
        code = child.wait()
        self._words = self._words or f"exit code {code}"
        return opened
