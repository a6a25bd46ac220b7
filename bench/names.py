"""What names cost the hub, and whether they are right: `python -m bench.names right`, `... cost`.

An API server of the tests plays a cluster in a process of its own: pods come and go, addresses are used again. Beside
it a hub's writer names and stores batches. `right` counts rows that were misnamed against the truth of the script,
`cost` tells the share of naming in the CPU of ingest, and memory. Run it alone: it lives by the clock.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
import structlog

from protocol.columns import empty
from protocol.schema import TABLES

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "k8s"), str(ROOT / "tests"), str(ROOT)]

SECOND = 10**9
ROWS = 60_000


def rss() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@click.group()
def main() -> None:
    """What Kubernetes' names cost, and whether they are right."""


def _script(pods: int, changes: float, seconds: float, start: int) -> Any:
    from cluster import churn

    return churn(random.Random(1), pods=pods, changes=changes, seconds=seconds, start=start, report=0.5)


@main.command()
@click.argument("pods", type=int)
@click.argument("changes", type=float)
@click.argument("seconds", type=float)
@click.argument("start", type=int)
@click.option("--faults", is_flag=True)
def play(pods: int, changes: float, seconds: float, start: int, faults: bool) -> None:
    """The cluster: an API server whose URL is printed, until stdin ends."""
    import threading

    from server import ApiServer
    from test_k8s_names import Player
    from test_k8s_names import faults as fail

    made, server, over = _script(pods, changes, seconds, start), ApiServer(), threading.Event()
    for kind, items in made.objects.items():
        for item in items:
            server.put(kind, item)
    player = Player(server, made)
    player.start()
    if faults:
        threading.Thread(target=fail, args=(server, over, 6.0), daemon=True).start()
    print(server.url, flush=True)
    for _ in sys.stdin:  # each line asks how late the player was
        print(player.lateness() / 1e9, flush=True)


class Cluster:
    """`play` in a process of its own."""

    def __init__(self, pods: int, changes: float, seconds: float, faults: bool = False) -> None:
        self.start = time.time_ns() + 10 * SECOND
        arguments = [str(value) for value in (pods, changes, seconds, self.start)] + ["--faults"] * faults
        command = [sys.executable, "-m", "bench.names", "play", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def late(self) -> float:
        """Seconds by which events came after their time, at worst since this was last asked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def _names(url: str) -> Any:
    from hub.k8s.api import Api
    from hub.k8s.names import Names
    from hub.k8s.place import Server

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    names = Names(Api(Server(url)), structlog.get_logger())
    names.start()
    assert names.listed(60)
    return names


@main.command()
@click.option("--pods", default=5000)
@click.option("--changes", default=50.0)
@click.option("--seconds", default=60.0)
@click.option("--rows", default=2000)
def right(pods: int, changes: float, seconds: float, rows: int) -> None:
    """Rows named while the cluster changes and its server fails, against the truth."""
    from naming import Rows, columns_of, compare

    cluster = Cluster(pods, changes, seconds, faults=True)
    names, made = _names(cluster.url), _script(pods, changes, seconds, cluster.start)
    rng, truth = random.Random(2), made.truth()
    draw, found, wrong, late = Rows(made, rng), Counter[str](), list[str](), 0
    begin, end = cluster.start + 3 * SECOND, made.events[-1][0]
    time.sleep(max(0.0, (begin - time.time_ns()) / 1e9))
    begin = time.time_ns()
    while begin < end:
        time.sleep(0.5)
        now = time.time_ns()
        addresses, times = draw.draw(begin, now, rows)
        names.wait(max(times))
        given = names.of("packets", columns_of(addresses, addresses, times), {})
        begin = now
        if cluster.late() > 0.25:
            late += 1
            continue
        for side in ("src", "dst"):
            compare(given[f"k8s_{side}"], addresses, times, truth, found, wrong, side == "src")
    total = sum(count for word, count in found.items() if word != "of a pod")
    print(f"{total} rows judged, {len(wrong)} misnamed, {late} batches not judged (the cluster was late)")
    print(", ".join(f"{word} {count}" for word, count in found.most_common()))
    print(*wrong[:10], sep="\n")
    cluster.close()
    names.stop()
    sys.exit(bool(wrong))


@main.command()
@click.option("--pods", default=5000)
@click.option("--changes", default=50.0)
@click.option("--seconds", default=60.0)
def cost(pods: int, changes: float, seconds: float) -> None:
    """CPU of naming beside that of ingest, and memory."""
    from store_rows import packets

    from hub.store.store import Store

    cluster = Cluster(pods, changes, seconds)
    with tempfile.TemporaryDirectory(prefix="nodetap-names-") as folder:
        store = Store(f"chdb://{folder}/store")
        store.open(time.time_ns())
        batches = [_batch(packets(seq, ROWS), pods) for seq in range(1, 5)]
        for seq in range(1, 3):
            store.commit([packets(seq, ROWS, agent="warm")], time.time_ns())
        idle = rss()
        names = _names(cluster.url)
        listed = rss()
        plain, naming, commits, most = 0.0, 0.0, 0, listed
        begun = time.process_time()
        time.sleep(2)
        alone = (time.process_time() - begun) / 2
        ends, seq = time.time() + seconds, 10
        while time.time() < ends:
            columns = batches[seq % len(batches)]
            columns["time"] = np.arange(ROWS, dtype="<i8") * 5000 + time.time_ns() - SECOND // 2
            names.wait(time.time_ns() - SECOND)
            t = time.thread_time()
            more = names.of("packets", columns, {})
            naming += time.thread_time() - t
            if commits < 20:
                entry = packets(seq, ROWS, **columns, **more)
                t = time.process_time()
                store.commit([entry], time.time_ns())
                plain += time.process_time() - t
                commits += 1
            seq, most = seq + 1, max(most, rss())
        named = seq - 10
        growth = _growth(cluster.url)
        per, share = plain / commits, naming / named
        print(f"naming {1e9 * share / ROWS:.0f} ns a row, storing {1e9 * per / ROWS:.0f}: {100 * share / per:.1f} %")
        print(f"watching: {100 * alone:.1f} % of a core")
        print(f"resident: {idle:.0f} MB, after the lists {listed:.0f} MB, at most {most:.0f} MB (store included)")
        print(f"names alone, in a fresh process: +{growth[0]:.1f} MB after the lists, +{growth[1]:.1f} MB at the end")
        cluster.close()
        names.stop()
        store.close()


def _growth(url: str) -> tuple[float, float]:
    out = subprocess.run([sys.executable, "-m", "bench.names", "grow", url], cwd=ROOT, text=True, check=True,
                         stdout=subprocess.PIPE).stdout  # fmt: skip
    first, last = out.split()
    return float(first), float(last)


@main.command(hidden=True)
@click.argument("url")
@click.option("--seconds", default=20.0)
def grow(url: str, seconds: float) -> None:
    """What names add to a process that has imported a hub."""
    import hub.ingest.listener
    import hub.store.store  # noqa: F401

    before = rss()
    names = _names(url)
    listed = rss()
    time.sleep(seconds)
    print(listed - before, rss() - before)
    names.stop()


def _batch(entry: Any, pods: int) -> dict[str, Any]:
    """Addresses of a cluster's traffic: most of pods, in runs as flows have them, some from outside."""
    dice = np.random.default_rng(entry.message.seq)
    flows = dice.integers(0, pods, (2, 2000)) + 512 + (42 << 16)
    flows[:, ::10] = dice.integers(0, 1 << 24, (2, 200))
    at = dice.integers(0, 2000, ROWS)
    columns: dict[str, Any] = {
        column.name: empty(column, ROWS)
        for column in TABLES["packets"].columns
        if column.wire in ("text", "list_text", "list_u2", "list_u4", "map", "dict")
    }
    for name, dtype in (("tcp_seq", "<u4"), ("tcp_ack", "<u4"), ("src_port", "<u2"), ("ip_id", "<u4")):
        columns[name] = dice.integers(0, np.iinfo(dtype).max, ROWS).astype(dtype)  # the worst case for compression
    for side, hosts in zip(("src", "dst"), flows, strict=True):
        address = np.zeros((ROWS, 16), dtype=np.uint8)
        address[:, 10:12] = 255
        address[:, 12:] = (hosts[at] + (10 << 24)).astype(">u4").view(np.uint8).reshape(ROWS, 4)
        columns[side] = address
    return columns


if __name__ == "__main__":
    main()
