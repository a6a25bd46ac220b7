"""The other ways to capture live, and rights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing

import pytest
from netns import pair

from agent.capture.scapy_socket import ScapySource

pytestmark = pytest.mark.root


@pytest.mark.parametrize("device", ["", "lo"])
def test_scapy_sockets_see_each_frame_once(device: str) -> None:
    with pair() as (left, right):
        source = ScapySource([device or left.device], "icmp")
        with left.entered():
            source.open()
        with closing(source):
            left.run("ping", "-q", "-c", "3", "-i", "0.01", "-W", "2", "127.0.0.1" if device else right.address)
            source.stop()
            frames, deadline = [], time.monotonic() + 10
            while not source.done:
                assert time.monotonic() < deadline
                if (block := source.next_block(1)) is not None:
                    frames += [block.data[at : at + 98].tobytes() for at in block.offset]
            assert source.linktypes == {1}
            assert [frame[34] for frame in frames] == [8, 0] * 3
            assert source.counters().kernel_packets == 6


def test_without_the_right_it_says_what_to_do() -> None:
    code = (
        "from agent.capture import NoRights\nfrom agent.capture.ring import RingSource\n"
        "try:\n    RingSource(['lo']).open()\nexcept NoRights as error:\n    print(error)"
    )
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*drop, sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env={**os.environ}
    )
    assert "CAP_NET_RAW" in done.stdout, done.stderr
