"""One AF_PACKET socket with a TPACKET_V3 receive ring: what the kernel and we share, and how frames lie in it.

Layout: https://docs.kernel.org/networking/packet_mmap.html and include/uapi/linux/if_packet.h. The ring is a row of
blocks; the kernel fills a block with frames and hands it over when it is full or `RETIRE_MS` old, we hand it back.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import kernel
from agent.capture import CaptureError, NoRights
from agent.capture.chain import words
from protocol.built import address

BLOCK_BYTES = 1 << 20
"""Bytes of a ring block: the largest frame (a segment of 64 KiB before it is cut, or more with BIG TCP) fits easily."""
RETIRE_MS = 50
"""A block that is not full is handed over after this many milliseconds."""

_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _FANOUT = 1, 5, 6, 10, 18
_FANOUT_HASH = 0
_MR_PROMISC, _V3, _ETH_P_ALL = 1, 2, 0x0003
_SO_ATTACH_FILTER = 26
_STATUS, _COUNT, _TS_FIRST = 8, 12, 32  # offsets in a block's header
_USER = 1
_STATUS_VLAN_VALID, _STATUS_TPID_VALID = 1 << 4, 1 << 6
_FRAME_HEADER = 48  # struct tpacket3_hdr; struct sockaddr_ll follows
_HEAD = 64  # what is read of both; a frame's bytes lie behind it
_MAP_POPULATE = 0x8000
_TAG_BYTES = 4
_LARGE = 400
"""Bytes a frame takes on average above which walking is faster than looking at every 8 bytes."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of ring blocks; arrays of shape (n,). `offset` is into the ring, the last two are the kernel's words.

    `vlan` is as in `Block`; None where no frame of these had a tag.
    """

    offset: NDArray[np.int64]
    cap_len: NDArray[np.uint32]
    wire_len: NDArray[np.uint32]
    time: NDArray[np.int64]
    vlan: NDArray[np.int64] | None
    ifindex: NDArray[np.int32]
    pkttype: NDArray[np.uint8]


_FRAMES = {
    "offset": "=i8",
    "cap_len": "=u4",
    "wire_len": "=u4",
    "time": "=i8",
    "vlan": "=i8",
    "ifindex": "=i4",
    "pkttype": "=u1",
}
"""The arrays of `Frames`, in the order of `struct ring` in agent/kernel/ring.c."""

_pass = threading.Lock()


def _barrier() -> None:
    """Nothing read or written before is seen by other processors after what comes later.

    The kernel writes a block and then its status; we read the status and then the block, and hand it back once it is
    read. x86 keeps that order by itself, ARM does not. Python has no fence, but a lock: what precedes a release stays
    before the next acquisition.
    """
    for _ in range(2):
        with _pass:
            pass


def _attach(sock: socket.socket, program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))


def _bind(sock: socket.socket, ifindex: int) -> None:
    """Start to receive on one interface, 0 for all, which Python's own bind cannot say."""
    address = struct.pack("=HHi12x", socket.AF_PACKET, socket.htons(_ETH_P_ALL), ifindex)
    if ctypes.CDLL(None, use_errno=True).bind(sock.fileno(), address, len(address)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _numbers(data: NDArray[np.uint8], place: int, count: int) -> list[int]:
    """Some of the kernel's 32-bit integers, one after the other."""
    numbers: list[int] = data[place : place + 4 * count].view(np.uint32).tolist()
    return numbers


def find_frames(block: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where the frames of one ring block start, relative to the block.

    Each frame says where the next one is. Frames lie on multiples of 8 and bear a second between the block's first
    and last: what looks so is a candidate, and if the candidates chain up exactly they are the frames. Payload that
    looks so, or a clock that was set, breaks the chain; then it is walked frame by frame, as large frames are at once.
    """
    (count, first, length), (early, late) = _numbers(block, _COUNT, 3), _numbers(block, _TS_FIRST, 3)[::2]
    if length > _LARGE * count:
        return _walk(block, first, count)
    seconds = block[first : length - length % 8].view(np.uint32)[1::2]
    if early == late:
        likely = seconds == np.uint32(early)
    else:
        likely = seconds - np.uint32(early) <= np.uint32((late - early) & 0xFFFFFFFF)
    found: NDArray[np.int64] = np.flatnonzero(likely)
    found *= 8
    found += first
    if len(found) == count and count and found[0] == first:
        steps = words(block, "=u4")[found]
        if np.array_equal(found[:-1] + steps[:-1], found[1:]):
            return found
    return _walk(block, first, count)


def _walk(block: NDArray[np.uint8], place: int, count: int) -> NDArray[np.int64]:
    numbers = memoryview(block.view(np.uint32))  # type: ignore[arg-type]
    found = []
    for _ in range(count):
        found.append(place)
        place += numbers[place >> 2]
    return np.array(found, dtype=np.int64)


def read_frames(data: NDArray[np.uint8], starts: NDArray[np.int64]) -> Frames:
    """The frames whose headers start at `starts`, which are multiples of 8, as their headers tell.

    The headers are gathered whole, once: a gather costs by the place, hardly by the byte.
    """
    places = np.ndarray(((len(data) - _HEAD) // 8 + 1,), f"V{_HEAD}", data, strides=(8,))
    heads = places[starts >> 3]
    numbers, halves = heads.view("=u4").reshape(-1, _HEAD // 4), heads.view("=u2").reshape(-1, _HEAD // 2)
    status, wire_len, vlan = numbers[:, 5], numbers[:, 4], None
    tagged = status & _STATUS_VLAN_VALID != 0
    if tagged.any():
        tpid = np.where(status & _STATUS_TPID_VALID != 0, halves[:, 18], 0x8100).astype(np.int64)
        vlan = np.where(tagged, tpid << 16 | (numbers[:, 8] & 0xFFFF), -1)
        wire_len = wire_len + np.where(tagged, np.uint32(_TAG_BYTES), np.uint32(0))
    time = numbers[:, 1].astype(np.int64)
    time *= 1_000_000_000
    time += numbers[:, 2]
    return Frames(
        offset=starts + halves[:, 12],
        cap_len=numbers[:, 3].copy(),
        wire_len=wire_len.copy(),
        time=time,
        vlan=vlan,
        ifindex=numbers[:, _FRAME_HEADER // 4 + 1].view(np.int32),
        pkttype=heads.view(np.uint8).reshape(-1, _HEAD)[:, _FRAME_HEADER + 10],
    )


def read_blocks(data: NDArray[np.uint8], places: list[int]) -> Frames:
    """The frames of the ring blocks, at least one, that begin at `places`."""
    library = kernel.load()
    if library is None:
        return read_frames(data, np.concatenate([find_frames(data[at : at + BLOCK_BYTES]) + at for at in places]))
    room = sum(_numbers(data, at + _COUNT, 1)[0] for at in places)
    arrays = {name: np.empty(room, dtype) for name, dtype in _FRAMES.items()}
    begins = np.array(places, "=i8")
    where = [address(array) for array in (data, begins, *arrays.values())]
    ring = np.array([*where[:2], len(places), min(BLOCK_BYTES, len(data)), room, *where[2:], 0], "=i8")
    count = library.nodetap_ring(address(ring))
    frames: dict[str, Any] = {name: array[:count] for name, array in arrays.items()}
    return Frames(**{**frames, "vlan": frames["vlan"] if ring[-1] else None})


def _status(block: int) -> int:
    """Where a block's status lies, in words from the ring's start."""
    return (block * BLOCK_BYTES + _STATUS) >> 2


def count_ready(words: memoryview[int], first: int, blocks: int, held: int) -> int:
    """How many blocks the kernel has handed over from `first` on, beside the `held` ones that lie before it.

    They lie in a row, so that few need be looked at: each is a memory page that nobody has looked at for long.
    """
    least, most = 0, blocks - held
    while least < most:
        middle = (least + most) // 2
        if words[_status((first + middle) % blocks)] & _USER:
            least = middle + 1
        else:
            most = middle
    return least


class Ring:
    """One ring, opened with its filter already in place. Raises NoRights, or CaptureError where the kernel refuses."""

    def __init__(self, ifindex: int, program: bytes, ring_bytes: int) -> None:
        """`ifindex` is the interface to bind to, 0 for all."""
        self.blocks = max(4, ring_bytes // BLOCK_BYTES)
        self._next = 0  # the block the kernel will hand over next
        self._held: list[int] = []
        self.taken = 0  # frames handed over so far
        self.packets = self.dropped = 0
        try:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: nothing arrives before bind
        except PermissionError:
            raise NoRights(
                "cannot capture: the right to open a raw socket is missing; run as root, or give the program"
                " CAP_NET_RAW (setcap cap_net_raw+ep), or read a file"
            ) from None
        try:
            self._set_up(ifindex, program)
        except OSError as error:
            self.socket.close()
            raise CaptureError(
                f"cannot capture: the kernel refuses a packet ring of {ring_bytes} bytes: {error.strerror}"
            ) from None

    def _set_up(self, ifindex: int, program: bytes) -> None:
        size, frame = self.blocks * BLOCK_BYTES, 2048
        request = struct.pack("=7I", BLOCK_BYTES, self.blocks, frame, size // frame, RETIRE_MS, 0, 0)
        self.socket.setsockopt(_SOL_PACKET, _VERSION, _V3)
        self.attach(program)
        self.socket.setsockopt(_SOL_PACKET, _RX_RING, request)
        memory = mmap.mmap(self.socket.fileno(), size, mmap.MAP_SHARED | _MAP_POPULATE)
        self.data: NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)
        self._words = memoryview(memory).cast("I")  # one store per item: the kernel never sees half a status
        self.bind(ifindex)

    def bind(self, ifindex: int) -> None:
        """Receive from this interface and no longer from the one before; 0 is all. Raises OSError."""
        _bind(self.socket, ifindex)

    def attach(self, program: bytes) -> None:
        """Replace the filter; frames already in the ring stay."""
        _attach(self.socket, program)

    def share(self, group: int) -> None:
        """Take only a part of the packets, whole flows, beside other rings of this group. Raises CaptureError.

        Without PACKET_FANOUT_FLAG_DEFRAG: it would hand over packets that never were on the wire.
        """
        try:
            self.socket.setsockopt(_SOL_PACKET, _FANOUT, group & 0xFFFF | _FANOUT_HASH << 16)
        except OSError as error:
            raise CaptureError(f"cannot share packets among workers: {error.strerror}") from None

    def promiscuous(self, ifindex: int) -> None:
        """Ask the interface for frames that are not addressed to it, as long as this ring is open."""
        self.socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("=iHH8s", ifindex, _MR_PROMISC, 0, b""))

    def ready(self) -> bool:
        """Whether the kernel has handed over a block that was not taken yet."""
        return len(self._held) < self.blocks and bool(self._words[_status(self._next)] & _USER)

    def waiting(self) -> float:
        """The share of the ring that is not the kernel's to fill; 0 where it is closed."""
        if not self._words:
            return 0.0
        held = len(self._held)
        return (held + count_ready(self._words, self._next, self.blocks, held)) / self.blocks

    def take(self, most_blocks: int, most_frames: int) -> Frames | None:
        """The frames of the blocks that are ready, or None. They stay where they are until `give_back`."""
        places: list[int] = []
        expected = 0
        while len(self._held) < most_blocks and expected < most_frames and self.ready():
            _barrier()
            places.append(self._next * BLOCK_BYTES)
            expected += self._words[(places[-1] + _COUNT) >> 2]
            self._held.append(self._next)
            self._next = (self._next + 1) % self.blocks
        if not places:
            return None
        frames = read_blocks(self.data, places)
        self.taken += len(frames.offset)
        return frames

    def give_back(self) -> None:
        """Hand the blocks taken last back to the kernel."""
        if self._held:
            _barrier()
        for block in self._held:
            self._words[_status(block)] = 0
        self._held.clear()

    def count(self) -> None:
        """Add the kernel's counts since the last call to `packets` and `dropped`: reading resets them."""
        packets, dropped, _ = struct.unpack("=3I", self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
        self.packets += packets
        self.dropped += dropped

    def clear_error(self) -> str:
        """The socket's pending error, which asking clears: an interface that goes down leaves one. Empty if none."""
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return errno.errorcode.get(code, str(code)) if code else ""

    def close(self) -> None:
        """Close the socket; the memory goes with the last array that looks into it."""
        self.socket.close()
        self.data = np.frombuffer(b"", dtype=np.uint8)
        self._words = memoryview(b"").cast("I")
        self._held.clear()
