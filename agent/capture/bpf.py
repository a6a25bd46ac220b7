"""Capture filters: libpcap's language compiled by libpcap itself, and programs put together for the kernel.

A program is bytes: 8 per instruction (code u16, jump-true u8, jump-false u8, operand u32, native byte order), as in
struct sock_filter. Jumps are relative and forward, so a program can be put in front of another without change.
Kernel side: https://docs.kernel.org/networking/filter.html.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.capture import Block, CaptureError

MAX_INSTRUCTIONS = 4096
_NAMES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.dylib")
_ERRBUF = 256
_NETMASK_UNKNOWN = 0xFFFFFFFF
_DLT = {101: 12}
"""LINKTYPE -> libpcap's DLT on this system, where the two differ."""

_LD_ABS, _JA, _JEQ, _RET = 0x20, 0x05, 0x15, 0x06
_SKF_AD_OFF, _SKF_AD_IFINDEX = 0xFFFFF000, 8

REJECT = struct.pack("=HBBI", _RET, 0, 0, 0)
"""A program that takes nothing."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


@cache
def _libpcap() -> Any:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = library.pcap_open_live.restype = ctypes.c_void_p
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = library.pcap_close.argtypes = (ctypes.c_void_p,)
        library.pcap_close.restype = None
        library.pcap_compile.argtypes = (
            ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint
        )  # fmt: skip
        library.bpf_filter.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        library.bpf_filter.restype = ctypes.c_uint
        return library
    raise CaptureError("a capture filter needs libpcap: install it (Debian: libpcap0.8) or leave the filter out")


def compile_filter(text: str, linktype: int, *, snaplen: int = 262144, device: str | None = None) -> bytes:
    """The program of a filter for frames of one link type; it returns `snaplen` for what it takes.

    With the name of a live `device` the program is for the kernel there, where VLAN tags lie beside the frame: only
    so do `vlan` primitives match. Raises CaptureError where libpcap is missing or the filter is wrong.
    """
    library = _libpcap()
    error = ctypes.create_string_buffer(_ERRBUF)
    if device is None:
        handle = library.pcap_open_dead(_DLT.get(linktype, linktype), snaplen)
    else:
        handle = library.pcap_open_live(device.encode(), snaplen, 0, 10, error)
    if not handle:
        raise CaptureError(f"cannot compile a filter for {device or linktype}: {error.value.decode()}")
    try:
        return _compile(library, handle, text)
    finally:
        library.pcap_close(handle)


def _compile(library: Any, handle: int, text: str) -> bytes:
    program = _Program()
    if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, _NETMASK_UNKNOWN) != 0:
        raise CaptureError(f"bad filter {text!r}: {library.pcap_geterr(handle).decode('utf-8', 'replace')}")
    try:
        return ctypes.string_at(program.instructions, 8 * program.length)
    finally:
        library.pcap_freecode(ctypes.byref(program))


def accept(snaplen: int) -> bytes:
    """A program that takes the first `snaplen` bytes of everything."""
    return struct.pack("=HBBI", _RET, 0, 0, snaplen)


def only_interfaces(indexes: Iterable[int], program: bytes) -> bytes:
    """`program`, for the frames of these interfaces; all others are rejected.

    Per interface a comparison and a long jump: conditional jumps reach no further than 255 instructions.
    """
    wanted = sorted(set(indexes))
    code = [struct.pack("=HBBI", _LD_ABS, 0, 0, _SKF_AD_OFF + _SKF_AD_IFINDEX)]
    for number, index in enumerate(wanted):
        code.append(struct.pack("=HBBI", _JEQ, 0, 1, index))
        code.append(struct.pack("=HBBI", _JA, 0, 0, 2 * (len(wanted) - number - 1) + 1))
    return b"".join(code) + REJECT + program


def fits(program: bytes) -> bool:
    """Whether the kernel takes a program of this length."""
    return len(program) <= 8 * MAX_INSTRUCTIONS


class FrameFilter:
    """A filter for frames in memory, compiled once per link type. Raises CaptureError where it is wrong."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._programs: dict[int, bytes] = {}
        self._program(1)  # a filter that is wrong anywhere is told at once

    def _program(self, linktype: int) -> bytes:
        if linktype not in self._programs:
            self._programs[linktype] = compile_filter(self._text, linktype)
        return self._programs[linktype]

    def matches(self, block: Block, linktypes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which frames of a block pass; `linktypes` says each one's, shape (n,). One call into libpcap per frame."""
        run = _libpcap().bpf_filter
        base = block.data.ctypes.data
        programs = [self._program(int(linktype)) for linktype in linktypes]
        frames = zip(
            programs, (base + block.offset).tolist(), block.wire_len.tolist(), block.cap_len.tolist(), strict=True
        )
        return np.fromiter((run(*frame) != 0 for frame in frames), dtype=np.bool_, count=len(block))
