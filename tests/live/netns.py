"""Network namespaces for tests: made, joined by a veth pair, and removed whatever happens. Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_DEADLINE = 20


def run(*command: str) -> str:
    """A command's standard output; its error in the exception where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


@dataclass(frozen=True)
class Netns:
    """One namespace. `device` is its end of the pair, `address` the IPv4 address there."""

    name: str
    device: str
    address: str

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command inside, for subprocess.Popen."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str) -> str:
        """A command's standard output, run inside."""
        return run(*self.command(*command))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside: sockets it opens belong to the namespace, also after it has left."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def pair(ipv6: bool = False) -> Iterator[tuple[Netns, Netns]]:
    """Two fresh namespaces, `left` 10.99.0.1 and `right` 10.99.0.2, joined by a veth pair that is up, as `lo` is.

    Without `ipv6` they are silent: no frame is sent that the test did not cause.
    """
    mark = secrets.token_hex(3)
    left = Netns(f"nt-{mark}-a", f"nt{mark}a", "10.99.0.1")
    right = Netns(f"nt-{mark}-b", f"nt{mark}b", "10.99.0.2")
    with contextlib.ExitStack() as undo:
        for netns in (left, right):
            run("ip", "netns", "add", netns.name)
            undo.callback(_remove, netns)
            netns.run("sysctl", "-qw", f"net.ipv6.conf.all.disable_ipv6={int(not ipv6)}")
        run("ip", "link", "add", left.device, "netns", left.name, "type", "veth",
            "peer", "name", right.device, "netns", right.name)  # fmt: skip
        for netns in (left, right):
            netns.run("ip", "address", "add", f"{netns.address}/24", "dev", netns.device)
            netns.run("ip", "link", "set", netns.device, "up")
            netns.run("ip", "link", "set", "lo", "up")
        yield left, right


def _remove(netns: Netns) -> None:
    """Remove a namespace with what runs in it; a veth end takes the other with it."""
    left_over = subprocess.run(["ip", "netns", "pids", netns.name], capture_output=True, text=True, timeout=_DEADLINE)
    for pid in left_over.stdout.split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", netns.name], timeout=_DEADLINE, check=False)


MARKER = b"the last frame of this test"


def send_marker(sender: Netns, receiver: Netns, address: str) -> None:
    """One UDP datagram that ends a test's traffic: nobody answers it."""
    with receiver.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender.entered():
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink, source:
        sink.bind((address, 0))
        source.sendto(MARKER, sink.getsockname())


@contextlib.contextmanager
def tcpdump(netns: Netns, device: str, path: Path, *filter_: str) -> Iterator[None]:
    """tcpdump writes what it sees on a device into a file. At the block's end it must have seen a marker."""
    command = ["tcpdump", "-n", "-U", "-B", "32768", "-Z", "root", "-i", device, "-w", str(path)]
    process = subprocess.Popen(netns.command(*command, *filter_), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "listening on" in line:
                break
        yield
        deadline = time.monotonic() + _DEADLINE
        while MARKER not in path.read_bytes():
            assert time.monotonic() < deadline, "tcpdump did not see the marker"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert re.search(r"^0 packets dropped by kernel", said, re.MULTILINE), said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
