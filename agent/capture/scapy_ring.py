"""The ring for scapy's own tools: `sniff(opened_socket=RingSocket("eth0"))`, and whatever else takes a SuperSocket.

scapy waits for a file descriptor and then reads one frame, but a ring becomes readable once for a whole block; so the
socket brings a `select` of its own, which knows of the frames that wait in memory.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from typing import Any

from scapy.config import conf
from scapy.data import MTU
from scapy.error import Scapy_Exception
from scapy.layers import inet, inet6, l2  # noqa: F401  (link types register themselves)
from scapy.supersocket import SuperSocket
from scapy.utils import EDecimal

from agent.capture import Block
from agent.capture.ring import RingSource


class RingSocket(SuperSocket):  # type: ignore[misc]
    """Frames of the interfaces that match one or more globs, each frame once, VLAN tags put back, `wirelen` set.

    Raises CaptureError (NoRights where the right is missing). The other options are those of `RingSource`.
    """

    desc = "read packets at layer 2 from a memory-mapped ring (TPACKET_V3)"

    def __init__(
        self, iface: str | Sequence[str] = "*", filter: str | None = None, promisc: bool = False, **options: Any
    ) -> None:
        self.closed = False
        include = [iface] if isinstance(iface, str) else list(iface)
        self.iface, self.promisc, self.outs = ",".join(include), promisc, None
        self._waiting: Iterator[tuple[int, bytes, int, int]] = iter(())
        self._next: tuple[int, bytes, int, int] | None = None
        self._source = RingSource(include, bpf=filter, promisc=promisc, **options)
        self._source.open()

    def recv_raw(self, x: int = MTU) -> tuple[Any, bytes | None, Any]:
        """Layer, bytes (at most `x`) and time of the next frame; three times None where there is none yet."""
        if not self.pending():
            return None, None, None
        assert self._next is not None
        place, data, when, self._wire_len = self._next
        self._next = None
        layer = conf.l2types.num2layer.get(self._source.interfaces[place].linktype, conf.raw_layer)
        return layer, data[:x], EDecimal(when) / 1_000_000_000

    def recv(self, x: int = MTU, **kwargs: Any) -> Any:
        """The next frame as a packet, or None."""
        packet = super().recv(x, **kwargs)
        if packet is not None:
            packet.wirelen = self._wire_len
        return packet

    def pending(self) -> bool:
        """Whether `recv_raw` has a frame at once."""
        if self._next is None:
            self._next = next(self._waiting, None)
        if self._next is None and (block := self._source.next_block(0)) is not None:
            self._waiting = _frames(block)
            self._next = next(self._waiting, None)
        return self._next is not None

    def send(self, x: Any) -> int:
        """Not possible: a ring only receives."""
        raise Scapy_Exception("Can't send anything with RingSocket")

    def fileno(self) -> int:
        """Readable where there may be a new block."""
        return self._source.fileno()

    def close(self) -> None:
        """Give the ring back."""
        if not self.closed and hasattr(self, "_source"):
            self.closed = True
            self._source.close()

    @staticmethod
    def select(sockets: list[Any], remain: float | None = conf.recv_poll_rate) -> list[Any]:
        """Those of `sockets`, of whatever kind, that have a frame; waits up to `remain` seconds (None: as long as it
        takes) until one may have.
        """
        ready = [sock for sock in sockets if isinstance(sock, RingSocket) and sock.pending()]
        waiter = select.poll()
        by_fd = {sock.fileno(): sock for sock in sockets if sock not in ready}
        for fd in by_fd:
            waiter.register(fd, select.POLLIN)
        timeout = 0 if ready else None if remain is None else max(0, remain) * 1000
        return ready + [by_fd[fd] for fd, _ in waiter.poll(timeout)]


def _frames(block: Block) -> Iterator[tuple[int, bytes, int, int]]:
    """Place of the interface, bytes, time and length on the wire of each frame. The block is read at once."""
    tags = block.vlan.tolist() if block.vlan is not None else [-1] * len(block)
    frames = []
    for at, length, wire_len, when, place, tag in zip(
        block.offset.tolist(), block.cap_len.tolist(), block.wire_len.tolist(), block.time.tolist(),
        block.iface.tolist(), tags, strict=True,
    ):  # fmt: skip
        data = block.data[at : at + length].tobytes()
        if tag >= 0:
            data = data[:12] + tag.to_bytes(4, "big") + data[12:]
        frames.append((place, data, when, wire_len))
    return iter(frames)
