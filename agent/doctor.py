"""What an agent knows of its own health: numbers and words for `nodetap doctor`. The hub judges them.

Called on a thread: disks and /proc may take long. Reads what any thread may read of the agent, and changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any

import protocol
from agent.capture import CaptureError
from agent.capture.interfaces import list_interfaces

if TYPE_CHECKING:
    from agent.daemon import Agent

_STARTED = monotonic()
MOST_NAMES = 64
"""Interfaces that are named; a node may have thousands."""
_CAPABILITIES = {12: "net_admin", 13: "net_raw", 14: "ipc_lock"}  # capabilities(7), linux/capability.h


def facts_of(agent: Agent) -> dict[str, Any]:
    """Everything `nodetap doctor` asks an agent. Sizes in bytes, times in seconds, counts since the start."""
    report = agent.pipeline.report
    return {
        "software": protocol.VERSION,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "wall": time_ns(),
        "uptime": round(monotonic() - _STARTED, 1),
        "live": agent.source.live,
        "state": str(agent.uplink.view.state),
        "level": agent.pipeline.level,
        "capture_restarts": agent.worker.restarts,
        "error": agent.worker.error,
        "capabilities": capabilities(),
        "captured": report.captured,
        "kernel_packets": report.kernel_packets,
        "kernel_dropped": report.kernel_dropped,
        "ring_pressed": bool(getattr(agent.source, "pressed", False)),
        "outbox": {"bytes": agent.outbox.bytes, "bound": agent.outbox.bound, "oldest": agent.outbox.oldest_age()},
        "memory": {"resident": resident(), "limit": memory_limit()},
        "link": agent.uplink.quality.to_map(),
        "certificate_ends": agent.uplink.view.certificate_ends,
        **(_interfaces(agent) if agent.source.live else {}),
        **_spool(agent),
        **_recorder(agent),
    }


def _interfaces(agent: Agent) -> dict[str, Any]:
    """The interfaces that are captured, and those that are up and could be."""
    chosen = sorted({interface.name for interface in agent.source.interfaces})
    others: list[str] = []
    with suppress(CaptureError):
        up = {found.name for found in list_interfaces() if found.up and found.linktype is not None}
        others = sorted(up - set(chosen))
    return {"interfaces": chosen[:MOST_NAMES], "not_chosen": others[:MOST_NAMES]}


def _spool(agent: Agent) -> dict[str, Any]:
    config, spooler = agent.config, agent.spooler
    if config.spool is None or spooler is None:
        return {}
    view = spooler.look()
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(config.spool.root).free
    return {
        "spool": {"bytes": view.bytes, "bound": config.spool_bytes, "free": free, "failing": view.failing},
    }


def _recorder(agent: Agent) -> dict[str, Any]:
    config, recorder = agent.config, agent.recorder
    if config.recorder is None or recorder is None:
        return {}
    view = recorder.look()
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(config.recorder.root).free
    return {
        "recorder": {
            "bytes": view.bytes,
            "bound": view.bound,
            "free": free,
            "failing": view.failing,
            "oldest": view.oldest,
            "recorded": view.recorded,
            "lost": view.lost,
        },
    }


def capabilities() -> list[str]:
    """The effective capabilities that capturing may need; root has them all."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                held = int(line.split()[1], 16)
                return [name for bit, name in _CAPABILITIES.items() if held >> bit & 1]
    return []


def resident() -> int:
    """Memory of this process, bytes; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def memory_limit() -> int | None:
    """What the control group allows this process, bytes (cgroups(7), version 2); None where there is no bound."""
    with suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0]
        return int((Path("/sys/fs/cgroup") / group.lstrip("/") / "memory.max").read_text())  # `max` is no number
    return None
