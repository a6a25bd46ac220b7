"""Frames from scapy's listen sockets, for systems without AF_PACKET rings. One Python call per frame: slow."""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agent.capture import Block, CaptureError, Counters, Interface, NoRights

_MOST_FRAMES = 1024
_SOL_PACKET, _STATISTICS, _IGNORE_OUTGOING = 263, 6, 23


class ScapySource:
    """Live frames of the named interfaces through `conf.L2listen`. The length on the wire is the length captured."""

    live = True

    def __init__(self, names: Sequence[str], bpf: str | None = None) -> None:
        self.interfaces: list[Interface] = []
        self.done = False
        self.on_change: Callable[[list[str], list[str]], None] = lambda came, went: None  # never called
        self._names, self._bpf = names, bpf
        self._sockets: list[Any] = []
        self._stopping = 0.0  # when the drain gives up
        self._packets = self._dropped = self._taken = 0
        self._lock = threading.Lock()  # counters are asked from other threads

    @property
    def linktypes(self) -> set[int]:
        """Link types of the interfaces."""
        return {interface.linktype for interface in self.interfaces}

    def open(self) -> None:
        """Start to capture. Raises NoRights, or CaptureError where scapy cannot open an interface."""
        import scapy.layers.l2  # noqa: F401  (link types register themselves)
        from scapy.config import conf

        try:
            for name in self._names:
                sock = conf.L2listen(iface=name, filter=self._bpf)
                self._sockets.append(sock)
                linktype = conf.l2types.layer2num.get(getattr(sock, "LL", None), 1)
                self.interfaces.append(Interface(name, linktype))
                _once(sock, name)
        except PermissionError:
            self.close()
            raise NoRights("cannot capture: the right is missing; run as root, or read a file") from None
        except Exception as error:  # scapy raises its own kinds, and OSError, ValueError, KeyError
            self.close()
            raise CaptureError(f"cannot capture on {', '.join(self._names)}: {error}") from None

    def next_block(self, timeout: float) -> Block | None:
        """The frames that come within `timeout` seconds, or None; returns once no more are waiting."""
        parts: list[tuple[bytes, int, int]] = []
        deadline = time.monotonic() + timeout
        while not self.done and len(parts) < _MOST_FRAMES:
            wait = 0.0 if parts or self._stopping else max(0.0, deadline - time.monotonic())
            ready = type(self._sockets[0]).select(self._sockets, wait)
            for sock in ready:
                self._receive(sock, parts)
            if self._stopping and (not ready or time.monotonic() > self._stopping):
                self.done = True
            if not ready:
                break
        self._taken += len(parts)
        return _pack(parts) if parts else None

    def _receive(self, sock: Any, parts: list[tuple[bytes, int, int]]) -> None:
        try:
            _, data, when = sock.recv_raw(262144)
        except OSError:  # the interface went down; frames come again once it is up
            return
        if data:
            now = time.time_ns() if when is None else int(float(when) * 1e6) * 1000
            parts.append((bytes(data), now, self._sockets.index(sock)))

    def counters(self) -> Counters:
        """The kernel's counts on Linux; elsewhere what was taken, and no drops: nobody tells them."""
        with self._lock:
            for sock in self._sockets:
                try:
                    packets, dropped = struct.unpack("=II", sock.ins.getsockopt(_SOL_PACKET, _STATISTICS, 8))
                except (OSError, AttributeError):
                    continue
                self._packets += packets
                self._dropped += dropped
            return Counters(max(self._packets, self._taken), self._dropped)

    def stop(self) -> None:
        """Read what is waiting, then end; where frames keep coming, after a second."""
        self._stopping = time.monotonic() + 1

    def close(self) -> None:
        """Close the sockets."""
        self.counters()
        with self._lock:
            for sock in self._sockets:
                sock.close()
            self._sockets.clear()
        self.done = True


def _once(sock: Any, name: str) -> None:
    """On Linux' loopback interface each frame comes twice, out and in: ask for one only."""
    if sys.platform == "linux" and name == "lo":
        sock.ins.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)


def _pack(parts: list[tuple[bytes, int, int]]) -> Block:
    frames, times, places = zip(*parts, strict=True)
    lengths = np.array([len(frame) for frame in frames], dtype=np.uint32)
    ends = np.cumsum(lengths, dtype=np.int64)
    return Block(
        data=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=ends - lengths,
        cap_len=lengths,
        wire_len=lengths,
        time=np.array(times, dtype=np.int64),
        iface=np.array(places, dtype=np.uint16),
    )
