"""The way of one block: decode, number, read the payloads, count into flows, pair calls, gather rows, seal.

Every packet fed is in the books from then on: `captured = rows + flow_only + lost + open` holds after every call,
whatever raised on the way. Pure but for what its parts do; one thread feeds it, any thread may read `report`,
`buffer_bytes` and `level` and set `level`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from agent.calls import Calls
from agent.capture import Block, Counters, pick
from agent.decode.decoder import Decoder
from agent.flows import FlowTable
from agent.seal import HALVINGS, MAX_AGE_NS, OnProblem, Sealer
from protocol.columns import Columns
from protocol.ledger import Report
from protocol.messages import Batch, Tombstone

if TYPE_CHECKING:
    from agent.l7.engine import Engine

LEVELS = ("packets", "flows")
EXPIRE_STEP_NS = 250_000_000
"""Flows are looked through when the time has moved by this much: small blocks would look too often."""

Decode = Callable[[Block, int], Columns]


def decode_parts(
    decode: Decode, block: Block, first_number: int, failed: Callable[[int, Exception], None], halvings: int = HALVINGS
) -> Iterator[Columns]:
    """A block's columns. Where decoding raises, those of its halves, and so on, until what is left is small enough to
    be given up: `failed` is told how many frames that are, and why.
    """
    try:
        columns = decode(block, first_number)
    except Exception as error:
        rows = len(block)
        if rows == 1 or not halvings:
            failed(rows, error)
            return
        half = rows // 2
        yield from decode_parts(decode, pick(block, slice(0, half)), first_number, failed, halvings - 1)
        yield from decode_parts(decode, pick(block, slice(half, rows)), first_number + half, failed, halvings - 1)
    else:
        yield columns


class Pipeline:
    """Blocks in, sealed batches out. `report` are the books that `sealer` was made with.

    `calls` gets what `engine` says of requests and responses (made `with_turns`).

    At level `packets` every packet gets a row; at `flows` none does, and it counts as `flow_only` once its flow record
    is sealed. `on_problem(reason, error)` is called once per kind of problem.
    """

    def __init__(
        self,
        decoder: Decoder,
        flows: FlowTable,
        sealer: Sealer,
        report: Report,
        level: str = "packets",
        *,
        engine: Engine | None = None,
        calls: Calls | None = None,
        on_problem: OnProblem = lambda reason, error: None,
    ) -> None:
        self.level = level
        self.frames = 0
        """Frames fed so far; the number of the last one."""
        self.report = report
        self._decoder, self._engine, self._calls = decoder, engine, calls
        self._flows, self._sealer, self._books = flows, sealer, report
        self._on_problem = on_problem
        self._told: set[tuple[str, str]] = set()
        self._looked = 0  # time of the last look through the flows
        sealer.on_problem = self._problem
        self._publish()

    @property
    def level(self) -> str:
        """Whether packets get rows: `packets` or `flows`. Holds from the next block on."""
        return self._level

    @level.setter
    def level(self, level: str) -> None:
        if level not in LEVELS:
            raise ValueError(f"no level {level!r}, there are {LEVELS}")
        self._level = level

    def heed_neighbours(self, behind: Mapping[str, str]) -> None:
        """From any thread: which address is behind which interface from now on."""
        self._sealer.behind = behind

    @property
    def buffer_bytes(self) -> int:
        """Memory held by rows that are not sealed yet, and by unfinished L7 messages. 0 after `seal`."""
        return self._sealer.bytes + (self._engine.bytes if self._engine else 0)

    def feed(self, block: Block) -> list[Batch]:
        """Take a block; its memory is not needed after the call. The batches that became full."""
        if not len(block):
            return []
        first = self.frames + 1
        self.frames += len(block)
        self._books.captured += len(block)
        self._books.open += len(block)
        if self._level == "packets" and not self._sealer.waits("packets"):
            self._decoder.turn()
        batches: list[Batch] = []
        for part in self._by_sheet(block):
            for columns in decode_parts(self._decode, part, first, self._not_decoded):
                batches += self._take(columns)
            first += len(part)
            if not self._decoder.room:
                batches += self._sealer.seal("packets")
        if self._flows.last_time is not None:
            batches += self._expire(self._flows.last_time)
        self._publish()
        return batches

    def tick(self, now_ns: int, max_age_ns: int = MAX_AGE_NS) -> list[Batch]:
        """For live sources, some times a second: close flows and batches that are old at `now_ns` (since 1970)."""
        batches = [*self._expire(now_ns), *self._sealer.due(now_ns, max_age_ns)]
        self._publish()
        return batches

    def due(self, now_ns: int) -> list[Batch]:
        """For files read slowly, some times a second: seal rows that are old; flows go by the packets' own times."""
        return self._sealer.due(now_ns)

    def seal(self) -> list[Batch]:
        """Seal all rows that wait, give up unfinished L7 messages and requests; flows in the table stay open."""
        if self._engine is not None:
            self._engine.free()
        batches = []
        if self._calls is not None:
            self._calls.clear()
            batches = self._add_calls(self._calls.flush())
        batches += self._sealer.seal()
        self._publish()
        return batches

    def look_into(self, engine: Engine | None, calls: Calls | None) -> list[Batch]:
        """Read payloads with another engine from now on, or not at all; what the one before had is sealed."""
        batches = self.seal()
        self._engine, self._calls = engine, calls
        return batches

    def finish(self) -> list[Batch | Tombstone]:
        """Seal all rows, close and seal all flows, then the final books: nothing is open after it."""
        items: list[Batch | Tombstone] = [*self._add_flows(self._flows.flush())]
        if self._calls is not None:
            items += self._add_calls(self._calls.flush())
        items += self._sealer.seal()
        self._publish()
        return [*items, self._sealer.report(final=True)]

    def books(self) -> Tombstone:
        """An item for the hub that carries the books alone."""
        return self._sealer.report()

    def counters(self, counters: Counters) -> None:
        """Enter what the source has counted."""
        self._books.kernel_packets = counters.kernel_packets
        self._books.kernel_dropped = counters.kernel_dropped
        self._books.discarded = dict(counters.discarded)
        self._publish()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _by_sheet(self, block: Block) -> Iterator[Block]:
        """A block, cut where the decoder's sheet ends and a batch with it, which then need not be copied together."""
        room = self._decoder.room
        if 0 < room < len(block):
            yield pick(block, slice(0, room))
            yield pick(block, slice(room, len(block)))
        else:
            yield block

    def _decode(self, block: Block, first_number: int) -> Columns:
        """A block's columns; with those of L7 where packets get rows."""
        if self._engine is None:
            return self._decoder.block(block, first_number)
        if self._level != "packets":
            self._engine.clear()
            return self._decoder.block(block, first_number)
        columns, payloads = self._decoder.with_payloads(block, first_number)
        self._engine.add(columns, payloads)
        return columns

    def _take(self, columns: Columns) -> list[Batch]:
        """Packets that were decoded: into the flows, and where they get rows, to the sealer."""
        rows, with_rows = len(columns["layers"]), self._level == "packets"
        try:
            self._flows.add(columns, with_rows)
            self._books.flow_open += rows
        except Exception as error:
            self._problem("encode_error", error)
            if not with_rows:
                self._lose("encode_error", rows)
        self._pair(columns, with_rows)
        return self._sealer.add("packets", columns) if with_rows else []

    def _pair(self, columns: Columns, with_rows: bool) -> None:
        """Requests and responses of packets that get rows; without rows nothing is read, and nothing is answered."""
        if self._calls is None or self._engine is None:
            return
        if not with_rows:
            self._calls.clear()
            return
        if not self._engine.turns:
            return
        try:
            self._calls.add(columns, self._engine.turns)
        except Exception as error:  # costs no packet
            self._problem("calls", error)

    def _expire(self, now_ns: int) -> list[Batch]:
        if abs(now_ns - self._looked) < EXPIRE_STEP_NS:
            return []
        self._looked = now_ns
        batches = self._add_flows(self._flows.expire(now_ns))
        if self._calls is not None:
            batches += self._add_calls(self._calls.take(now_ns))
        return batches

    def _add_flows(self, columns: Columns | None) -> list[Batch]:
        return [] if columns is None else self._sealer.add("flows", columns)

    def _add_calls(self, columns: Columns | None) -> list[Batch]:
        return [] if columns is None else self._sealer.add("calls", columns)

    def _not_decoded(self, packets: int, error: Exception) -> None:
        self._lose("capture_error", packets)
        self._problem("capture_error", error)

    def _lose(self, reason: str, packets: int) -> None:
        self._books.open -= packets
        self._books.lost[reason] = self._books.lost.get(reason, 0) + packets

    def _problem(self, reason: str, error: Exception) -> None:
        kind = (reason, type(error).__name__)
        if kind not in self._told:
            self._told.add(kind)
            self._on_problem(reason, error)

    def _publish(self) -> None:
        """`report` becomes a copy of the books that nobody changes: other threads never see them half written."""
        self.report = self._books.copy()
