"""The warm-up: nothing that packets need on their way is missing after it, and it says nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from unittest.mock import Mock
from agent import warm
from agent.assemble import pipeline_of
log = Mock()
warm.warm_up({mode!r}, log)
modules = set(sys.modules)
source = Mock(interfaces=[warm.Interface("eth0", 1)], live=True)
pipeline = pipeline_of(source, "node", 1, log, l7={mode!r})
frames = [warm._udp(port, b"some words") for port in (53, 80, 443)] + [warm._tcp(80, warm._REQUEST)]
out = pipeline.feed(warm._block(frames, 40_000)) + pipeline.finish()
assert sum(item.rows for item in out[:-1] if item.kind == "packets") == 40_000
assert not log.mock_calls, log.mock_calls
print(*(set(sys.modules) - modules))
"""


@pytest.mark.parametrize("mode", ["off", "fast"])
def test_after_it_packets_import_nothing(mode: str) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(mode=mode)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.split()) == (0, []), run.stderr
