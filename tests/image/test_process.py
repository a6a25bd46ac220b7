"""What is different in a container: process 1, no terminal, a limit of memory, another zone of time."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from container_cluster import Cluster, ask, cluster
from pods import Pod, removing
from procs import until

TELL = "import os, sys; os.kill(int(open('/proc/1/task/1/children').read().split()[0]), int(sys.argv[1]))"
"""Send the first child of process 1 a signal."""
ZOMBIES = """
import glob
print(sum(open(name).read().rpartition(")")[2].split()[0] == "Z" for name in glob.glob("/proc/[0-9]*/stat")))
"""
THE_ONE = "udp.dstport == 7777"
ENGINE_MEMORY = """
import chdb, hub.store.engine, urllib.parse
engine = chdb.connect("/tmp/engine?" + urllib.parse.urlencode(hub.store.engine.OPTIONS))
print(engine.query("SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage'", "TSV"))
"""


def _ready(at: Cluster) -> tuple[Pod, Pod]:
    hub, agent = at.hub(), at.agent()
    try:
        until("the agent is ready", lambda: at.probe_agent("/readyz") == 200)
    except BaseException:
        print(hub.log()[-3000:], agent.log()[-3000:])
        hub.remove()
        agent.remove()
        raise
    return hub, agent


def test_the_watchdogs_alarm_writes_stacks_and_the_compiled_kernel_has_it(tmp_path: Path) -> None:
    """Without the kernel SIGALRM ends the agent."""
    with cluster(tmp_path) as at:
        agent = at.agent()
        with removing(agent):
            until("it runs", lambda: at.probe_agent("/healthz") == 200)
            agent.run("python3", "-c", TELL, str(int(signal.SIGALRM)))
            until("stacks", lambda: "most recent call first" in agent.log())
            assert at.probe_agent("/healthz") == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_that_stop_reach_the_program(tmp_path: Path, number: signal.Signals) -> None:
    with cluster(tmp_path) as at:
        hub, agent = _ready(at)
        with removing(hub, agent):
            for pod in (agent, hub):
                pod.signal(number)
                assert pod.code(30) == 0


def test_what_others_leave_behind_is_cleared_away(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        agent = at.agent()
        with removing(agent):
            until("it runs", lambda: at.probe_agent("/healthz") == 200)
            agent.run("sh", "-c", "for n in 1 2 3; do (sleep 0.1 &); done")
            until("no zombies", lambda: agent.run("python3", "-c", ZOMBIES).stdout == "0\n", 10)


def test_every_line_of_the_log_is_json(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        hub, agent = _ready(at)
        with removing(hub, agent):
            for pod in (agent, hub):
                pod.terminate(30)
                lines = pod.log().splitlines()
                assert lines
                assert all({"event", "level", "timestamp"} <= json.loads(line).keys() for line in lines)


def test_times_are_told_in_the_zone_that_was_asked_for(tmp_path: Path) -> None:
    with cluster(tmp_path) as at:
        hub, agent = _ready(at)
        with removing(hub, agent):
            at.exchange(1)
            until("it is found", lambda: ask(hub, "packets", THE_ONE))

            def minute(zone: str) -> int:
                shown = hub.run("env", f"TZ={zone}", "nodetap", "packets", THE_ONE).stdout
                return int(re.findall(r"\d\d:(\d\d):\d\d", shown)[0])

            assert (minute("Asia/Kathmandu") - minute("UTC")) % 60 == 45


def test_the_engine_heeds_the_limit_of_memory(tmp_path: Path) -> None:
    """Half of what the container may use, not half of the machine."""
    limit = 1 << 30
    with cluster(tmp_path) as at:
        hub = at.hub(options=["--memory", str(limit)])
        with removing(hub):
            until("the hub is ready", lambda: at.probe_hub("/readyz") == 200)
            assert int(hub.run("python3", "-c", ENGINE_MEMORY).stdout) == limit // 2
