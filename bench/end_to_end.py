"""Agent to hub to store: how many packets a second are on disk in the end."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.capture import Capture
from bench.race import clean_environment, into_page_cache
from bench.table import Figure, at_least

BIN = Path(sys.executable).parent
Command = list[str | Path]


def bench_end_to_end(capture: Capture) -> list[Figure]:
    """From the start of a replay until all is acknowledged, once without application protocols and once with."""
    with hub() as (agents, api):
        program: Command = [BIN / "nodetap-agent", "--log-level", "warning"]
        into_page_cache(capture.path)
        replay = [*program, "replay", capture.path, "--hub", agents, "--l7"]
        rate, with_l7 = (capture.frames / seconds([*replay, depth]) for depth in ("off", "fast"))
        books = json.loads(ask(api, "ledger", "-o", "json").stdout)
    stored, wanted = sum(run["row"] for run in books["agents"]), 2 * capture.frames
    return [
        at_least("agent to hub to store, --l7 off, packets/s", rate, 200_000),
        Figure("agent to hub to store, --l7 fast, packets/s", f"{with_l7:,.0f}"),
        Figure("packet rows stored, both together", f"{stored:,} of {wanted:,}", "all", stored == wanted),
        Figure("ledger", "balanced" if books["balanced"] else "not balanced", "balanced", books["balanced"]),
    ]


def seconds(command: Command) -> float:
    """How long a program takes. Raises CalledProcessError where it fails."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=clean_environment())
    return time.perf_counter() - begin


@contextlib.contextmanager
def hub() -> Iterator[tuple[str, str]]:
    """A hub with an empty store: the URLs for agents and for people."""
    agents, api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-") as folder, Path(folder, "hub.log").open("wb") as log:
        command: Command = [
            BIN / "nodetap-hub",
            "serve",
            "--agents",
            agents,
            "--api",
            api,
            "--store",
            f"chdb://{folder}/store",
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment())
        try:
            url = f"http://{api}"
            wait_until(lambda: ask(url, "agents", "-o", "json").returncode == 0, 60)
            yield f"ws://{agents}", url
        finally:
            process.terminate()
            process.wait(60)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(url: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """`nodetap` with some arguments, ended."""
    command: Command = [BIN / "nodetap", "--hub-url", url, *arguments]
    return subprocess.run(command, check=False, capture_output=True, env=clean_environment())


def wait_until(condition: Callable[[], bool], limit: float) -> None:
    """Wait until `condition` holds. Raises TimeoutError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the hub did not come up")
        time.sleep(0.05)
