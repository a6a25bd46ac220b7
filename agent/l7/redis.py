"""Redis: RESP2 and RESP3 requests and replies, inline commands. The command's name, never its arguments."""

from __future__ import annotations

import numpy as np

from agent.l7 import TCP, TURNS, Conn, Heads, Signs, Summary, Turn
from agent.l7.stream import Mask, Passing, listed, table_of

PORT = 6379
MOST_LINE = 4096
"""Longest line that is waited for."""
MOST_ITEMS = 1 << 30

INLINE = frozenset(
    b"""APPEND AUTH BGREWRITEAOF BGSAVE BITCOUNT BLPOP BRPOP CLIENT CLUSTER COMMAND CONFIG COPY DBSIZE DEBUG DECR DECRBY
    DEL DISCARD DUMP ECHO EVAL EVALSHA EXEC EXISTS EXPIRE EXPIREAT FLUSHALL FLUSHDB GET GETBIT GETDEL GETEX GETRANGE
    GETSET HDEL HELLO HEXISTS HGET HGETALL HINCRBY HKEYS HLEN HMGET HMSET HSCAN HSET HSETNX HVALS INCR INCRBY
    INCRBYFLOAT INFO KEYS LASTSAVE LATENCY LINDEX LINSERT LLEN LPOP LPUSH LPUSHX LRANGE LREM LSET LTRIM MEMORY MGET
    MIGRATE MODULE MONITOR MOVE MSET MSETNX MULTI OBJECT PERSIST PEXPIRE PFADD PFCOUNT PFMERGE PING PSETEX PSUBSCRIBE
    PSYNC PTTL PUBLISH PUBSUB PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE RENAME RENAMENX REPLCONF REPLICAOF RESET
    RESTORE ROLE RPOP RPOPLPUSH RPUSH RPUSHX SADD SAVE SCAN SCARD SCRIPT SDIFF SELECT SET SETBIT SETEX SETNX SETRANGE
    SHUTDOWN SINTER SISMEMBER SLAVEOF SLOWLOG SMEMBERS SMOVE SORT SPOP SREM STRLEN SUBSCRIBE SUNION SWAPDB SYNC TIME
    TOUCH TTL TYPE UNLINK UNSUBSCRIBE UNWATCH WAIT WATCH XADD XLEN XRANGE XREAD ZADD ZCARD ZCOUNT ZINCRBY ZRANGE ZRANK
    ZREM ZSCORE""".split()
)
"""Commands that are believed without RESP around them; any other first word might be a value."""

WITH_PART = frozenset((b"CONFIG", b"CLIENT", b"CLUSTER", b"COMMAND", b"XINFO", b"XGROUP", b"SCRIPT", b"ACL", b"OBJECT"))
"""Commands whose first argument is part of the command."""
UNASKED = (b"$7\r\nmessage\r\n", b"$8\r\npmessage\r\n", b"$8\r\nsmessage\r\n")
"""How messages of subscriptions begin behind their array's line."""
STATUS = frozenset((b"OK", b"PONG", b"QUEUED", b"CONTINUE", b"FULLRESYNC", b"none"))

KINDS = {
    43: "Status",
    45: "Error",
    58: "Integer",
    36: "Bulk",
    42: "Array",
    95: "Null",
    44: "Double",
    35: "Boolean",
    33: "Error",
    61: "Verbatim",
    40: "Number",
    37: "Map",
    126: "Set",
    62: "Push",
    124: "Attribute",
}
BULKS = frozenset(b"$!=")
GROUPS = {42: 1, 126: 1, 62: 1, 37: 2, 124: 2}  # items that follow for each of the number in the line
LETTERS = table_of((*range(65, 91), *range(97, 123)))
COUNTED, WORDED = table_of(b"*$:%~>=!|(,"), table_of(b"+-#")
SHOWN = bytes(range(32, 127))
DIGITS = table_of((*range(48, 58), 45))


class _State(Passing):
    """Where each side is inside a value: how many items are still to come."""

    __slots__ = ("client", "todo")

    def __init__(self) -> None:
        super().__init__()
        self.todo = [0, 0]
        self.client = -1  # the side that sends commands, once known

    def lost(self, conn: Conn, side: int) -> None:
        super().lost(conn, side)
        self.todo[side] = 0


def _count(line: bytes) -> int:
    """The number of a length line; -1 for a null, for a streamed value and for what is no number."""
    return int(line) if line.isdigit() and len(line) < 11 else -1


def command(data: bytes, at: int) -> str:
    """The name of the command whose array of bulk strings begins behind its line at `at`; "" where it is not there."""
    words: list[bytes] = []
    for _ in range(2):
        end = data.find(b"\r\n", at, at + 8)
        if end < 0 or data[at : at + 1] != b"$":
            break
        size = _count(data[at + 1 : end])
        word = data[end + 2 : end + 2 + size].upper()
        if not 0 < size <= 32 or len(word) != size or not word.translate(None, b"._-|").isalnum():
            break
        words.append(word)
        if word not in WITH_PART:
            break
        at = end + 2 + size + 2
    return b" ".join(words).decode("ascii", "replace")


class RedisParser:
    """Redis, Valkey and what else speaks RESP."""

    name = "Redis"
    transports = frozenset((TCP,))
    stateful = True
    signs = Signs((42,), (PORT,))

    def probe(self, heads: Heads) -> Mask:
        """A command as an array of bulk strings anywhere; any type of RESP, or a word, on Redis's port."""
        first = heads.first
        end = b"\r\n$"
        short = (first[:, 2:5] == np.frombuffer(end, dtype=np.uint8)).all(axis=1) & DIGITS[first[:, 5]]
        long = (first[:, 3:6] == np.frombuffer(end, dtype=np.uint8)).all(axis=1) & DIGITS[first[:, 6]]
        array = (first[:, 0] == 42) & DIGITS[first[:, 1]] & (short | (DIGITS[first[:, 2]] & long))
        line = ((first[:, :15] == 13) & (first[:, 1:16] == 10)).any(axis=1)
        typed = (COUNTED[first[:, 0]] & DIGITS[first[:, 1]]) | (WORDED[first[:, 0]] & LETTERS[first[:, 1]])
        typed &= line | (heads.length > 15)
        word = LETTERS[first[:, 0]] & LETTERS[first[:, 1]] & LETTERS[first[:, 2]]
        claimed: Mask = (heads.length >= 3) & (array | (heads.port(PORT) & (typed | word)))
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read the commands, or the replies, that begin in one segment."""
        if not isinstance(conn.state, _State):
            conn.state = _State()
        state: _State = conn.state
        data = state.take(conn, side, payload)
        if not data:
            return None
        client = state.client == side if state.client >= 0 else dport == PORT or (sport != PORT and data[0] == 42)
        said: list[Turn] = []
        if not self._values(data, side, client, conn, said):
            state.lost(conn, side)
        elif said and state.client < 0:
            state.client = side if client else 1 - side
        return _summary(said, client) if said else None

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut."""
        if isinstance(conn.state, _State):
            conn.state.lost(conn, side)

    def _values(self, data: bytes, side: int, client: bool, conn: Conn, said: list[Turn]) -> bool:
        """Walk over all values; the turns go to `said`. False where this is not RESP."""
        state: _State = conn.state
        at, size = 0, len(data)
        todo = state.todo[side]
        while at < size:
            end = data.find(b"\n", at, at + MOST_LINE)
            if end < 0:
                state.todo[side] = todo
                return size - at < MOST_LINE and (data[at] in KINDS or client) and conn.keep(side, data[at:])
            kind, line = data[at], data[at + 1 : end].rstrip(b"\r")
            if kind not in KINDS:
                if todo or not client or not _inline(data[at:end], said):
                    return False
                at = end + 1
                continue
            group = GROUPS.get(kind, 0)
            if not todo and not _sound(kind, line):
                return False
            if not todo and len(said) < TURNS:
                turn = _request(data, kind, end + 1) if client else _reply(data, kind, line, end + 1)
                if turn is not None:
                    said.append(turn)
            todo = max(0, todo - 1)
            at = end + 1
            count = _count(line)
            if group:
                todo = min(todo + max(count, 0) * group, MOST_ITEMS) + (kind == 124)
            elif kind in BULKS and count >= 0:
                at += count + 2
        state.todo[side] = todo
        state.skip[side] = at - size
        return True


def _sound(kind: int, line: bytes) -> bool:
    """Whether the line of a value can be one: a number, or text that can be shown."""
    if kind in b"+-#,":
        return line.isascii() and not line.translate(None, SHOWN)
    return len(line) < 40 and (line.removeprefix(b"-").isdigit() or line in (b"", b"?"))


def _inline(line: bytes, said: list[Turn]) -> bool:
    """A command without RESP; whether it is one."""
    words = line.split(None, 2)
    if not words:
        return True
    word = words[0].upper()
    if word not in INLINE:
        return False
    if len(said) < TURNS:
        said.append(Turn(True, word.decode()))
    return True


def _request(data: bytes, kind: int, at: int) -> Turn | None:
    name = command(data, at) if kind == 42 else ""
    return Turn(True, name) if name else None


def _reply(data: bytes, kind: int, line: bytes, at: int) -> Turn | None:
    """The turn that a reply is; None for what nobody asked for."""
    if kind in (62, 124) or (kind == 42 and data.startswith(UNASKED, at)):
        return None
    if kind == 45 or kind == 33:
        text = line if kind == 45 else data[at : at + 32]
        word = text.split(None, 1)[0] if text.split(None, 1) else b""
        code = word.decode("ascii", "replace") if word.isupper() and word.isalnum() and len(word) < 24 else "ERR"
        return Turn(False, status=code, error=True)
    if kind == 43:
        word = line.split(None, 1)[0] if line.strip() else b""
        return Turn(False, status=word.decode() if word in STATUS else "Status")
    null = line == b"-1" and kind in (36, 42)
    return Turn(False, status="Null" if null else KINDS[kind])


def _summary(said: list[Turn], client: bool) -> Summary:
    if client:
        names = [turn.operation for turn in said]
        return Summary("Redis", "Request: " + listed(names), rest={"redis.command": names[0]}, turns=tuple(said))
    rest = {"redis.reply": said[0].status}
    for turn in said:
        if turn.error:
            rest["redis.error"] = turn.status
            break
    return Summary("Redis", "Response: " + listed([t.status for t in said]), rest=rest, turns=tuple(said))


PARSER = RedisParser()
