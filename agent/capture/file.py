"""Frames from capture files: classic pcap and pcapng, plain or gzip, from disk or a pipe, one file after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent.capture import Block, CaptureError, Counters, Interface, pick
from agent.capture.input import File, Stream, open_input
from agent.capture.pcap import MAGICS, PcapReader
from agent.capture.pcapng import MAGIC, PcapngReader

_ENOUGH_TO_TELL = 28
"""Bytes after which it is clear what a file is and whether its header is whole."""
KEPT = 16 << 20
"""Bytes asked for and given back once, without touching them: glibc then keeps what blocks give back for the next ones
(mallopt(3), M_MMAP_THRESHOLD), where it would ask the system anew for each (measured: two of three page faults)."""


class FileSource:
    """The frames of capture files, in the order of the paths; `-` is standard input.

    A file that is cut short gives its whole frames; `truncated` then says so in one line. `next_block` raises
    CaptureError where a file is no capture or is damaged; the frames before the damage came before. `bpf` is a libpcap
    filter; what it rejects is not numbered and not counted.
    """

    live = False

    def __init__(self, paths: Sequence[str | Path], *, bpf: str | None = None, block_frames: int = 32768) -> None:
        self.interfaces: list[Interface] = []
        self.done = not paths
        self.truncated = ""
        self._paths = list(paths)
        self._bpf = bpf
        self._block_frames = block_frames
        self._input: File | Stream | None = None
        self._reader: PcapReader | PcapngReader | None = None
        self._window: Block | None = None
        self._file = 0
        self._taken = 0  # frames of `_window` handed out
        self._bytes = 0  # of the files read to their end

    @property
    def linktypes(self) -> set[int]:
        """Link types of the interfaces seen so far."""
        return {interface.linktype for interface in self.interfaces}

    def open(self) -> None:
        """Look at all files and open the first. Raises CaptureError where one is no capture or the filter is wrong."""
        for path in self._paths:
            _check(path)
        if self._bpf:
            from agent.capture.bpf import FrameFilter

            self._filter = FrameFilter(self._bpf)
        if self._paths:
            self._input = open_input(self._paths[self._file])
        np.empty(KEPT, dtype=np.uint8)

    def next_block(self, timeout: float) -> Block | None:
        """The next frames. None where none came in time (a pipe) or all files are read. Raises CaptureError."""
        deadline = time.monotonic() + timeout
        while not self.done:
            block = self._from_window()
            if block is None:
                block = self._from_reader()
            if block is not None and len(block):
                return block
            left = deadline - time.monotonic()
            if block is None and not self._advance(max(0.0, left)):
                return None
            if block is not None and left < 0:  # a filter may take nothing for long
                return None
        return None

    def counters(self) -> Counters:
        """All zero: files have no kernel terms."""
        return Counters()

    def progress(self) -> tuple[int, int | None]:
        """Bytes read of all files, as they lie on disk, and how many there are: None where a pipe is among them."""
        now = self._input.progress() if self._input else 0
        sizes = [Path(path).stat().st_size if Path(path).is_file() else None for path in self._paths]
        total = None if None in sizes else sum(size for size in sizes if size is not None)
        return self._bytes + now, total

    def stop(self) -> None:
        """Read no further."""
        self.done = True

    def close(self) -> None:
        """Close what is open."""
        self.done = True
        self._window = self._reader = None
        if self._input is not None:
            self._input.close()
            self._input = None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _from_window(self) -> Block | None:
        """The next `block_frames` frames of the window found last."""
        window, first = self._window, self._taken
        if window is None or first >= len(window):
            self._window = None
            return None
        self._taken = first + self._block_frames
        return self._filtered(pick(window, slice(first, self._taken)))

    def _from_reader(self) -> Block | None:
        if self._reader is None or (window := self._reader.next_block()) is None:
            return None
        self._window, self._taken = window, 0
        block = self._from_window()
        return window if block is None else block

    def _filtered(self, block: Block) -> Block:
        if not self._bpf:
            return block
        linktypes = np.array([interface.linktype for interface in self.interfaces])[block.iface]
        return pick(block, self._filter.matches(block, linktypes))

    def _advance(self, timeout: float) -> bool:
        """Get more bytes, or see what the file is, or go to the next one. False where nothing came in time."""
        source = self._input
        if source is None:
            self.done = True
            return False
        if self._reader is None and (source.eof or len(source.data) >= _ENOUGH_TO_TELL):
            self._reader = _reader_of(source, self.interfaces)
        elif source.eof:
            self._end_file(source)
        else:
            return source.more(timeout) or source.eof
        return True

    def _end_file(self, source: File | Stream) -> None:
        """Note how the file ended and open the next one."""
        missing = self._reader.missing() if self._reader else ""
        self._bytes += source.progress()
        if source.cut or missing:
            cut = source.cut or f"{source.name}: cut short, {missing}"
            self.truncated = f"{self.truncated}; {cut}" if self.truncated else cut
        source.close()
        self._input = self._reader = None
        self._file += 1
        if self._file < len(self._paths):
            self._input = open_input(self._paths[self._file])
        else:
            self.done = True


def _check(path: str | Path) -> None:
    """Raise CaptureError where a plain file cannot be read or is no capture: before the first frame is sent."""
    source = open_input(path)
    try:
        if isinstance(source, File):
            source.more(0.0)
            magic = bytes(source.raw[:4])
            if magic not in MAGICS and magic != MAGIC:
                raise _no_capture(source)
    finally:
        source.close()


def _no_capture(source: File | Stream) -> CaptureError:
    what = "not a capture (neither pcap nor pcapng)" if len(source.raw) else "empty"
    return CaptureError(f"{source.name}: {what}")


def _reader_of(source: File | Stream, interfaces: list[Interface]) -> PcapReader | PcapngReader:
    magic = bytes(source.raw[:4])
    if magic in MAGICS:
        return PcapReader(source, interfaces)
    if magic == MAGIC:
        return PcapngReader(source, interfaces)
    raise _no_capture(source)
