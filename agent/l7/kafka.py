"""Kafka: API, version and correlation id of requests, and their responses with an error code where it comes first."""

from __future__ import annotations

from struct import Struct

import numpy as np

from agent.l7 import TCP, Conn, Heads, Signs, Summary, Turn, port_table
from agent.l7.stream import Mask, Passing, listed, remember

PORTS = (9092, 9093, 9094)
_PORTS = port_table(PORTS)
MOST_SIZE = 100 << 20  # socket.request.max.bytes
MOST_OPEN = 1024
MOST_VERSION = 31

NAMES = (
    *("Produce", "Fetch", "Offsets", "Metadata", "LeaderAndIsr", "StopReplica", "UpdateMetadata"),
    *("ControlledShutdown", "OffsetCommit", "OffsetFetch", "FindCoordinator", "JoinGroup", "Heartbeat", "LeaveGroup"),
    *("SyncGroup", "DescribeGroups", "ListGroups", "SaslHandshake", "ApiVersions", "CreateTopics", "DeleteTopics"),
    *("DeleteRecords", "InitProducerId", "OffsetForLeaderEpoch", "AddPartitionsToTxn", "AddOffsetsToTxn", "EndTxn"),
    *("WriteTxnMarkers", "TxnOffsetCommit", "DescribeAcls", "CreateAcls", "DeleteAcls", "DescribeConfigs"),
    *("AlterConfigs", "AlterReplicaLogDirs", "DescribeLogDirs", "SaslAuthenticate", "CreatePartitions"),
    *("CreateDelegationToken", "RenewDelegationToken", "ExpireDelegationToken", "DescribeDelegationToken"),
    *("DeleteGroups", "ElectLeaders", "IncrementalAlterConfigs", "AlterPartitionReassignments"),
    *("ListPartitionReassignments", "OffsetDelete", "DescribeClientQuotas", "AlterClientQuotas"),
    *("DescribeUserScramCredentials", "AlterUserScramCredentials", "Vote", "BeginQuorumEpoch", "EndQuorumEpoch"),
    *("DescribeQuorum", "AlterPartition", "UpdateFeatures", "Envelope", "FetchSnapshot", "DescribeCluster"),
    *("DescribeProducers", "BrokerRegistration", "BrokerHeartbeat", "UnregisterBroker", "DescribeTransactions"),
    *("ListTransactions", "AllocateProducerIds", "ConsumerGroupHeartbeat", "ConsumerGroupDescribe"),
    *("ControllerRegistration", "GetTelemetrySubscriptions", "PushTelemetry", "AssignReplicasToDirs"),
    *("ListClientMetricsResources", "DescribeTopicPartitions", "ShareGroupHeartbeat", "ShareGroupDescribe"),
    *("ShareFetch", "ShareAcknowledge"),
)
"""By API key, under Wireshark's names where it has them (2 is Kafka's ListOffsets)."""

# API key -> first version with a throttle time before the error code, first version with a flexible response header
ERRORS = {11: (2, 6), 12: (1, 4), 13: (1, 4), 14: (1, 4), 10: (1, 3), 16: (1, 3), 22: (0, 2), 26: (0, 3), 25: (0, 3)}
ERRORS |= {1: (7, 12), 17: (99, 99), 18: (99, 99), 36: (99, 2)}
ERROR_NAMES = {
    -1: "UNKNOWN_SERVER_ERROR",
    0: "NONE",
    14: "COORDINATOR_LOAD_IN_PROGRESS",
    15: "COORDINATOR_NOT_AVAILABLE",
    16: "NOT_COORDINATOR",
    22: "ILLEGAL_GENERATION",
    25: "UNKNOWN_MEMBER_ID",
    27: "REBALANCE_IN_PROGRESS",
    30: "GROUP_AUTHORIZATION_FAILED",
    33: "UNSUPPORTED_SASL_MECHANISM",
    35: "UNSUPPORTED_VERSION",
    58: "SASL_AUTHENTICATION_FAILED",
    70: "FETCH_SESSION_ID_NOT_FOUND",
    71: "INVALID_FETCH_SESSION_EPOCH",
    79: "MEMBER_ID_REQUIRED",
}

_request = Struct(">IhhiH").unpack_from  # size, API, version, correlation id, length of the client id
_response = Struct(">Ii").unpack_from
_short = Struct(">h").unpack_from


class _State(Passing):
    """Requests that are not answered yet: correlation id -> API, version."""

    __slots__ = ("client", "open")

    def __init__(self, client: int) -> None:
        super().__init__()
        self.client = client
        self.open: dict[int, tuple[int, int]] = {}


def _asks(data: bytes, at: int = 0) -> bool:
    """Whether a request begins here; its client id has to be readable."""
    if at + 14 > len(data):
        return False
    size, api, version, _, name = _request(data, at)
    if not 10 <= size <= MOST_SIZE or not 0 <= api < len(NAMES) or not 0 <= version <= MOST_VERSION:
        return False
    if name == 0xFFFF:
        return True
    text = data[at + 14 : at + 14 + name].decode("latin-1")
    return name <= 255 and name + 10 <= size and text.isascii() and text.isprintable()


class KafkaParser:
    """Kafka's protocol between clients and brokers."""

    name = "Kafka"
    transports = frozenset((TCP,))
    stateful = True
    signs = Signs(range((MOST_SIZE >> 24) + 1))

    def probe(self, heads: Heads) -> Mask:
        """A request header anywhere; on Kafka's ports also a response that is all of its payload."""
        size = heads.word(0, 4).astype(np.int64)
        api, version = heads.word(4, 2).astype(np.int64), heads.word(6, 2).astype(np.int64)
        name = heads.word(12, 2).astype(np.int64)
        readable = (heads.first[:, 14] >= 32) & (heads.first[:, 14] < 127)
        named = (name > 0) & (name <= 255) & (name + 10 <= size) & readable
        sane = (size >= 10) & (size <= MOST_SIZE) & (heads.length >= 14) & ~_PORTS[heads.sport]
        port = _PORTS[heads.dport]
        fits = ((size + 4 == heads.length) & named) | (port & (named | (name == 0xFFFF) | (name == 0)))
        request = sane & fits & (api < len(NAMES)) & (version <= MOST_VERSION)
        response = (size + 4 == heads.length) & (size >= 6) & _PORTS[heads.sport]
        claimed: Mask = request | response
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read the requests, or the responses, that begin in one segment."""
        if not isinstance(conn.state, _State):
            asks = sport not in PORTS and (dport in PORTS or _asks(payload))
            conn.state = _State(side if asks else 1 - side)
        state: _State = conn.state
        data = state.take(conn, side, payload)
        client = side == state.client
        texts: list[str] = []
        rest: dict[str, str] = {}
        turns: list[Turn] = []
        need, at, size = 14 if client else 8, 0, len(data)
        while at + need <= size:
            length = _response(data, at)[0]
            if not 4 <= length <= MOST_SIZE or (client and not _asks(data, at)):
                state.lost(conn, side)
                break
            if len(texts) < 64:
                read = _ask if client else _answer
                texts.append(read(data, at, state, rest, turns))
            at += 4 + length
        else:
            state.leave(conn, side, data, at)
        return Summary("Kafka", listed(texts, separator=", "), rest=rest, turns=tuple(turns)) if texts else None

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut."""
        if isinstance(conn.state, _State):
            conn.state.lost(conn, side)


def _ask(data: bytes, at: int, state: _State, rest: dict, turns: list[Turn]) -> str:  # type: ignore[type-arg]
    _, api, version, number, _ = _request(data, at)
    remember(state.open, number, (api, version), MOST_OPEN)
    if not rest:
        rest["kafka.api_key"], rest["kafka.api_version"] = str(api), str(version)
        rest["kafka.correlation_id"] = str(number)
    turns.append(Turn(True, NAMES[api], key=number))
    return f"Kafka {NAMES[api]} v{version} Request"


def _answer(data: bytes, at: int, state: _State, rest: dict, turns: list[Turn]) -> str:  # type: ignore[type-arg]
    length, number = _response(data, at)
    api, version = state.open.pop(number, (-1, 0))
    if not rest:
        rest["kafka.correlation_id"] = str(number)
    if api < 0:
        return "Kafka Response"
    rest.setdefault("kafka.api_key", str(api))
    code = _error(data, at + 8, min(len(data), at + 4 + length), api, version)
    status = "" if code is None else ERROR_NAMES.get(code, str(code))
    if code:
        rest["kafka.error"] = str(code)
    turns.append(Turn(False, status=status, error=bool(code), key=number))
    return f"Kafka {NAMES[api]} v{version} Response"


def _error(data: bytes, at: int, end: int, api: int, version: int) -> int | None:
    """The error code of a response that has one of its own at its beginning."""
    if api not in ERRORS or (api == 1 and version < 7):
        return None
    throttled, flexible = ERRORS[api]
    at += (1 if version >= flexible else 0) + (4 if version >= throttled else 0)
    return int(_short(data, at)[0]) if at + 2 <= end else None


PARSER = KafkaParser()
