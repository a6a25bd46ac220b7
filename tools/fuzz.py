"""Mutated frames through everything an agent does with them: nothing may raise, read outside, or lose count.

    python tools/fuzz.py [FILE ...] [--frames 1000000] [--seed N] [--seconds S]

The frames of the captures (NODETAP_CORPUS) are mutated (`fuzz_frames`) and go through the decoder, the L7 engine,
flows, calls and sealing, as an agent puts them together. Held against each round of them:

* nothing raises, no parser either, and the books balance with nothing lost;
* every sealed batch is one that the hub takes;
* what lies between two frames of a block has no influence on any column, and the page behind a block is never read
  (it cannot be: reading it kills the process that works, and the round is named);
* where the C kernel of the decoder is there, it says what numpy says: the rounds run twice, `NODETAP_KERNEL=off` too.

A round is made from the seed and its number alone. The frames that failed are written to .bench/fuzz as pcapng, made as
few as still fail. Exit status 1 where something failed.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from agent.capture import Block, pick

if TYPE_CHECKING:
    from fuzz_frames import Seeds

ROOT = Path(__file__).resolve().parent.parent
FOUND = ROOT / ".bench" / "fuzz"
BLOCKS, FRAMES = 8, 2048
"""Blocks of a round, and frames of a block."""
PAGE = mmap.PAGESIZE


class Find(Exception):
    """Something that must not be."""


# -- one round -----------------------------------------------------------------------------------------------------


class Fence:
    """Memory for a block's data that ends where a page begins that nobody may read."""

    def __init__(self, size: int = 64 << 20) -> None:
        self._map = mmap.mmap(-1, size + PAGE)
        self._size = size
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(address + size), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def hold(self, block: Block) -> Block:
        """The block with its data moved to the end of the memory."""
        room = np.frombuffer(self._map, np.uint8, len(block.data), self._size - len(block.data))
        room[:] = block.data
        return replace(block, data=room)


class Round:
    """The parts of an agent, new, and what must hold of them."""

    def __init__(self, fence: Fence) -> None:
        from fuzz_frames import INTERFACES

        from agent.calls import Calls
        from agent.decode.decoder import Decoder
        from agent.flows import FlowTable
        from agent.l7.engine import Engine
        from agent.l7.registry import parsers
        from agent.pipeline import Pipeline
        from agent.seal import Sealer
        from protocol.ledger import Report

        self._fence = fence
        self._decoder = Decoder(list(INTERFACES))
        self._engine = Engine(parsers(), with_turns=True)
        report = Report()
        self._sealer = Sealer("fuzz", 1, report, max_rows=FRAMES * 2)
        self._pipeline = Pipeline(
            self._decoder, FlowTable(max_flows=4096), self._sealer, report,
            engine=self._engine, calls=Calls(), on_problem=_raise,
        )  # fmt: skip
        self.digest = 0
        """Of the columns that the decoder gave."""

    def run(self, blocks: Sequence[Block]) -> None:
        """Take blocks in order. Raises Find, or whatever is raised on the way."""
        batches: list[Any] = []
        for number, block in enumerate(blocks):
            held = self._fence.hold(block)
            self._decode(held, number)
            self._pipeline.level = "flows" if number == BLOCKS - 2 else "packets"
            batches += self._pipeline.feed(held)
            if self._engine.counts.failed:
                raise Find("a parser raised")
        batches += self._pipeline.tick(2_000_000_000_000_000_000)
        batches += self._pipeline.finish()
        self._balance(sum(map(len, blocks)))
        for batch in batches:
            _taken(batch)

    def _decode(self, block: Block, number: int) -> None:
        """Twice, with other bytes around the frames; the digest of what is said."""
        from fuzz_frames import gaps

        first = _digest(*self._decoder.with_payloads(block, 1))
        self.digest = zlib.crc32(first.to_bytes(4, "big"), self.digest)
        if number % 4 == 0:
            around = gaps(block)
            block.data[around] = np.random.default_rng(number).integers(0, 256, int(around.sum()))
            if _digest(*self._decoder.with_payloads(block, 1)) != first:
                raise Find("bytes outside the frames were read")

    def _balance(self, frames: int) -> None:
        report = self._pipeline.report
        if report.lost or report.open or report.flow_open:
            raise Find(f"the books are {report}")
        if not report.captured == report.rows + report.flow_only == report.flow_packets == frames:
            raise Find(f"{frames} frames, the books are {report}")


def _raise(reason: str, error: Exception) -> None:
    raise Find(f"{reason}: {type(error).__name__}: {error}") from error


def _digest(columns: Any, payloads: Any) -> int:
    """Of all columns, as they would be sent, and of where the payloads are."""
    from protocol.packing import pack_columns
    from protocol.schema import PACKETS

    start = np.where(payloads.length > 0, payloads.start, 0)
    packed = msgpack.packb(pack_columns(PACKETS, columns))
    return zlib.crc32(packed, zlib.crc32(start.tobytes(), zlib.crc32(payloads.length.tobytes())))


def _taken(item: Any) -> None:
    """The hub's checks of a batch."""
    from protocol.codec import unpack_body

    if not hasattr(item, "body"):
        return
    _, unknown = unpack_body(item)
    if unknown:
        raise Find(f"{unknown} columns of a batch are not known")


def blocks_of(seeds: Seeds, seed: int, number: int) -> list[Block]:
    """The blocks of a round: the same for the same seed and number."""
    from fuzz_frames import mutated

    rng = np.random.default_rng([seed, number])
    return [mutated(seeds, rng, FRAMES) for _ in range(BLOCKS)]


# -- making a find small -------------------------------------------------------------------------------------------


def smallest(blocks: list[Block], fails: Callable[[list[Block]], bool]) -> list[Block]:
    """Fewer blocks and frames that still fail: halves are left out as long as it does."""
    for block in blocks:
        if fails([block]):
            blocks = [block]
            break
    if len(blocks) > 1:
        return blocks
    (block,) = blocks
    step = len(block) // 2
    while step:
        first = 0
        while first < len(block) > step:
            keep = np.ones(len(block), bool)
            keep[first : first + step] = False
            if fails([fewer := pick(block, keep)]):
                block = fewer
            else:
                first += step
        step //= 2
    return [block]


def fails(blocks: list[Block]) -> bool:
    """Whether these blocks, alone, fail."""
    try:
        Round(Fence()).run(blocks)
    except Exception:
        return True
    return False


def save(blocks: list[Block], name: str) -> Path:
    """Write frames that failed; where."""
    from fuzz_frames import write_pcapng

    path = FOUND / f"{name}.pcapng"
    write_pcapng(path, blocks)
    return path


# -- many rounds ---------------------------------------------------------------------------------------------------


class Shared:
    """What the process that works leaves behind also when it is killed: its round, and the digests of those done."""

    def __init__(self, rounds: int) -> None:
        self.words: Any = np.frombuffer(mmap.mmap(-1, 4 * (rounds + 2)), np.uint32)
        self.digests = self.words[2:]

    @property
    def done(self) -> int:
        """Rounds done."""
        return int(self.words[0])


def work(seeds: Seeds, seed: int, rounds: int, deadline: float, shared: Shared) -> int:
    """Run the rounds; the exit status."""
    fence = Fence()
    for number in range(rounds):
        blocks = blocks_of(seeds, seed, number)
        one = Round(fence)
        try:
            one.run(blocks)
        except Exception:
            traceback.print_exc()
            path = save(smallest(blocks, fails), f"seed{seed}-round{number}")
            print(f"seed {seed}, round {number} failed: {path}", file=sys.stderr)
            return 1
        shared.digests[number] = one.digest
        shared.words[0] = number + 1
        if time.monotonic() > deadline:
            break
    return 0


def run(seeds: Seeds, seed: int, rounds: int, seconds: float, kernel: str) -> tuple[Shared, int]:
    """Rounds in a process of their own, which may die: what it left, and its exit status (128 + signal)."""
    shared, started = Shared(rounds), time.monotonic()
    child = os.fork()
    if not child:
        os.environ |= {"NODETAP_KERNEL": kernel}
        status = 2
        try:
            status = work(seeds, seed, rounds, started + seconds, shared)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    frames, took = shared.done * BLOCKS * FRAMES, time.monotonic() - started
    print(f"{kernel:>8} {frames:>12} {took:>9.0f} s {frames / took:>10.0f}", flush=True)
    if status > 128:
        path = save(blocks_of(seeds, seed, shared.done), f"seed{seed}-round{shared.done}-killed")
        name = signal.Signals(status - 128).name
        print(f"seed {seed}, round {shared.done}: killed by {name}: {path}", file=sys.stderr)
    return shared, status


def compare(seeds: Seeds, seed: int, one: Shared, other: Shared) -> int:
    """1 where the decoder said two things of one round, which is written."""
    rounds = min(one.done, other.done)
    differ = np.flatnonzero(one.digests[:rounds] != other.digests[:rounds])
    if not len(differ):
        return 0
    number = int(differ[0])
    path = save(blocks_of(seeds, seed, number), f"seed{seed}-round{number}-kernel")
    print(
        f"{len(differ)} rounds are decoded differently by the kernel and without it; the first: {path}", file=sys.stderr
    )
    return 1


def _kernel() -> bool:
    """Whether the decoder has its C kernel."""
    try:
        from agent import kernel
    except ImportError:
        return False
    return kernel.load() is not None


def main() -> int:
    """Fuzz; 1 where something failed, 2 where there is nothing to start from."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from fidelity import captures, corpus
    from fuzz_frames import Seeds

    parser = argparse.ArgumentParser(description="Mutated frames through everything an agent does with them.")
    parser.add_argument("files", nargs="*", type=Path, help="captures to start from; by default the corpus")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time, for each kernel")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="for the same frames again")
    options = parser.parse_args()
    files = options.files or (captures(corpus()) if corpus().is_dir() else [])
    if not files:
        print(f"no captures in {corpus()}: set NODETAP_CORPUS", file=sys.stderr)
        return 2
    seeds = Seeds.read(files)
    rounds = max(1, -(-options.frames // (BLOCKS * FRAMES)))
    kernels = ["on", "off"] if _kernel() else ["off"]
    print(f"seed {options.seed}: {len(seeds.offset)} frames of {len(files)} captures\n")
    print(f"{'kernel':>8} {'frames':>12} {'time':>11} {'frames/s':>10}", flush=True)
    ran = [run(seeds, options.seed, rounds, options.seconds, kernel) for kernel in kernels]
    differ = compare(seeds, options.seed, ran[0][0], ran[-1][0])
    return 1 if differ or any(status for _, status in ran) else 0


if __name__ == "__main__":
    sys.exit(main())
