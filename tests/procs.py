"""Real programs for tests: a hub, an agent, questions; started, watched and ended by their process id."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")


def _ports() -> Iterator[int]:
    """Ports to listen on, no one twice in a row: below those that the kernel lends to any connection, so that none is
    lent between the look and the start of the program; each worker of a test run has a range of its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first, last = 10_240 + worker * 2_750, 10_240 + (worker + 1) * 2_750
    yield from itertools.cycle(random.sample(range(first, last), last - first))


_PORTS = _ports()


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the ports come round")


def until(what: str, look: Callable[[], T], timeout: float = 60.0, pause: float = 0.05) -> T:
    """The first true value of `look`; fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = look()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what} (last: {value!r})"
        time.sleep(pause)


def program(module: str, *args: str, first: str = "") -> list[str]:
    """The command line of one of our programs, by its module; `first` is a statement to run before it."""
    return [sys.executable, "-c", f"{first}\nfrom {module} import main\nmain()", *args]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("NODETAP_")}
    return {**env, "PYTHONPATH": str(ROOT), **(extra or {})}


class Process:
    """A started program whose output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                list(command), stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment(env), cwd=log.parent
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON log lines."""
        found = []
        for line in self.text.splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    def wait(self, timeout: float = 60.0) -> int:
        return self.popen.wait(timeout)

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        if self.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.popen.pid, signal.SIGCONT)
            self.popen.kill()
        self.popen.wait(10)

    def stop(self, timeout: float = 30.0) -> int:
        if self.popen.poll() is None:
            self.popen.terminate()
        return self.popen.wait(timeout)


class Hub(Process):
    """`nodetap-hub serve` on free ports over a store in `folder`. `first`: see `program`."""

    def __init__(
        self, folder: Path, *args: str, agents: int = 0, api: int = 0, env: dict[str, str] | None = None,
        prefix: Sequence[str] = (), first: str = "",
    ) -> None:  # fmt: skip
        self.folder, self.args = folder, args
        self.agents_port, self.api_port = agents or free_port(), api or free_port()
        self.ws, self.api = f"ws://127.0.0.1:{self.agents_port}", f"http://127.0.0.1:{self.api_port}"
        command = program(
            "hub.serve", "--log-format", "json", "serve", "--agents", f"127.0.0.1:{self.agents_port}",
            "--api", f"127.0.0.1:{self.api_port}", "--store", f"chdb://{folder / 'store'}", *args,
            first=first,
        )  # fmt: skip
        super().__init__([*prefix, *command], folder / "hub.log", env)

    def ready(self, timeout: float = 60.0) -> Hub:
        def look() -> bool:
            assert self.popen.poll() is None, f"the hub ended: {self.text[-2000:]}"
            return status_of(f"{self.api}/readyz") == 200

        until("the hub is ready", look, timeout)
        return self

    def again(self, *args: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> Hub:
        """The same hub once more, after it ended; with other options where they are given."""
        options = args or self.args
        return Hub(self.folder, *options, agents=self.agents_port, api=self.api_port, env=env, prefix=prefix)

    def get(self, path: str, timeout: float = 20.0) -> Any:
        with urllib.request.urlopen(self.api + path, timeout=timeout) as answer:
            return json.load(answer)

    def metric(self, name: str) -> float:
        return metric(f"{self.api}/metrics", name)

    def agents(self) -> dict[str, dict[str, Any]]:
        found = self.get("/v1/agents")
        return {a["agent"]: a for a in (found["agents"] if isinstance(found, dict) else found)}

    def ledger(self) -> dict[str, Any]:
        return dict(self.get("/v1/ledger"))

    def cli(self, *args: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`nodetap ARGS` against this hub."""
        done = subprocess.run(
            program("hub.cli.main", "--hub-url", self.api, *args),
            capture_output=True, text=True, timeout=timeout, env=environment(), check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def rows(self, *args: str) -> list[dict[str, Any]]:
        """All rows that `nodetap packets ARGS` gives."""
        done = self.cli("packets", *args, "--since", "all", "--limit", "0", "-o", "ndjson")
        return [json.loads(line) for line in done.stdout.splitlines()]


class Agent(Process):
    """`nodetap-agent COMMAND ...` with its metrics on a free port. `first`: see `program`."""

    def __init__(
        self, folder: Path, *args: str, name: str = "agent", env: dict[str, str] | None = None,
        prefix: Sequence[str] = (), first: str = "",
    ) -> None:  # fmt: skip
        self.metrics_port = free_port()
        self.url = f"http://127.0.0.1:{self.metrics_port}"
        metrics = ("--metrics", f"127.0.0.1:{self.metrics_port}")
        command = program("agent.cli", "--log-format", "json", args[0], *metrics, *args[1:], first=first)
        super().__init__([*prefix, *command], folder / f"{name}.log", env)

    def metric(self, name: str) -> float:
        return metric(f"{self.url}/metrics", name)

    @property
    def state(self) -> str:
        """The present state by the agent's metrics; empty where they cannot be had."""
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(f"{self.url}/metrics", timeout=2).read().decode()
            for line in text.splitlines():
                if line.startswith("nodetap_agent_state{") and line.endswith(" 1.0"):
                    return line.split('"')[1]
        return ""


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def metric(url: str, name: str) -> float:
    """The value of one sample, name and labels as printed; -1 where it is not there."""
    with contextlib.suppress(OSError):
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
    return -1.0


@contextlib.contextmanager
def ending(*processes: Process) -> Iterator[None]:
    """Whatever happens, these processes are gone afterwards."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
