"""Messages and batches as bytes, with limits.

A message is one msgpack map; key `t` is its type word, the others are its fields. Reading is strict about what it
knows (a missing key or a wrong type is `bad_key`) and lenient about what it does not (unknown keys are dropped and
counted); an unknown type word is refused. No input raises anything but a `RemoteError`.

What reading takes, measured as the peak of Python's allocations over the worst inputs we could build (msgpack 1.2,
CPython 3.11; kept by tests/protocol/test_codec.py): a message at most 3.6 times MAX_MESSAGE beside
its own bytes; a small one, whatever it claims, at most 25 MiB (empty maps, MAX_VALUES of them); a batch's columns at
most 3.5 times MAX_RAW, however small the compressed body, and zstd's window of at most MAX_RAW besides.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from typing import Any

import msgpack

from protocol import compiled
from protocol.columns import Columns
from protocol.errors import LocalError, RemoteError, WrongBatch, WrongMessage
from protocol.limits import MAX_COLUMNS, MAX_MESSAGE, MAX_RAW, MAX_STRINGS, VERSIONS
from protocol.messages import MESSAGES, Batch, Message
from protocol.packing import pack_columns, unpack_columns
from protocol.schema import TABLES
from protocol.survey import survey

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_LEVEL = 1
MIN_GAIN = 0.9
"""A body is sent compressed where that makes it at most this share of its size."""

WINDOW_LOG = MAX_RAW.bit_length() - 1
"""Largest zstd window taken, as a power of two: what MAX_RAW bytes can need."""

_WORDS = {cls: word for word, (cls, _) in MESSAGES.items()}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bytes": (bytes,),
    "list": (list,),
    "dict": (dict,),
    "Held": (list,),
    "Positions": (dict,),
}


def _spec(cls: type) -> list[tuple[str, tuple[type, ...], bool]]:
    """Per field of a message class: its name, the types it may have, whether it must be there."""
    return [
        (f.name, _TYPES[str(f.type).split("[")[0]], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(cls)
    ]


_SPECS = {word: _spec(cls) for word, (cls, _) in MESSAGES.items()}


def encode(message: Message) -> bytes:
    """A message as bytes. Raises LocalError where it cannot be encoded or would be larger than MAX_MESSAGE."""
    body = {f.name: getattr(message, f.name) for f in fields(message)}
    try:
        data: bytes = msgpack.packb({"t": _WORDS[type(message)], **body}, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:  # UnicodeEncodeError is a ValueError
        raise LocalError(f"a {type(message).__name__} cannot be encoded: {error}") from None
    if len(data) > MAX_MESSAGE:
        raise LocalError(f"a {type(message).__name__} of {len(data)} bytes is larger than {MAX_MESSAGE}")
    return data


def _unpack(data: bytes, limit: int) -> dict[Any, Any]:
    if len(data) > limit:
        raise WrongMessage("too_large", f"{len(data)} bytes, the limit is {limit}")
    survey(data)
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:  # msgpack raises many kinds: a string that is not UTF-8, a list as a key
        raise WrongMessage("bad_msgpack", f"not msgpack: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise WrongMessage("bad_msgpack", f"a {type(value).__name__} where a map belongs")
    return value


def decode(data: bytes | str, sender: str) -> tuple[Message, int]:
    """The message in `data`, and how many unknown keys were dropped.

    `sender` is `agent` or `hub`: who may have sent it. Raises WrongMessage.
    """
    if not isinstance(data, bytes):
        raise WrongMessage("bad_msgpack", "a text frame where a binary one belongs")
    value = _unpack(data, MAX_MESSAGE)
    word = value.pop("t", None)
    if not isinstance(word, str) or word not in MESSAGES or MESSAGES[word][1] != sender:
        shown = repr(word[:40]) if isinstance(word, str) else f"of type {type(word).__name__}"
        raise WrongMessage("unknown_type", f"no message {shown} comes from the {sender}")
    taken = {}
    for name, types, required in _SPECS[word]:
        if name not in value:
            if required:
                raise WrongMessage("bad_key", f"{word} without {name}")
            continue
        item = value.pop(name)
        if not isinstance(item, types) or isinstance(item, bool):
            raise WrongMessage("bad_key", f"{word}.{name} is a {type(item).__name__}")
        taken[name] = item
    return _build(word, taken), len(value)


def _build(word: str, taken: dict[str, Any]) -> Message:
    try:
        message: Message = MESSAGES[word][0](**taken)
    except RemoteError:
        raise
    except (TypeError, ValueError, AttributeError, UnicodeError) as error:
        raise WrongMessage("bad_key", f"{word}: {error}") from None
    return message


def choose_version(offered: list[int]) -> int:
    """The newest version both sides speak. Raises WrongMessage `unknown_version`."""
    for version in VERSIONS:
        if version in offered:
            return version
    raise WrongMessage("unknown_version", f"we speak {list(VERSIONS)}, the peer {offered[:8]}")


def pack_body(kind: str, columns: Columns) -> tuple[bytes, int, int]:
    """A batch's columns as `(body, raw_size, zstd)`. Raises LocalError where they are larger than MAX_RAW."""
    raw: bytes = msgpack.packb(pack_columns(TABLES[kind], columns), use_bin_type=True)
    if len(raw) > MAX_RAW:
        raise LocalError(f"columns of {len(raw)} bytes are larger than {MAX_RAW}")
    if len(raw) > MAX_STRINGS:  # else it cannot hold more than that in strings
        _survey_own(raw)
    packed = zstd.compress(raw, ZSTD_LEVEL)
    if len(packed) <= len(raw) * MIN_GAIN:
        return packed, len(raw), 1
    return raw, len(raw), 0


def _survey_own(raw: bytes) -> None:
    try:
        survey(raw)
    except WrongMessage as error:
        raise LocalError(f"columns that no peer takes: {error.detail}") from None


def unpack_body(batch: Batch) -> tuple[Columns, int]:
    """A batch's columns, checked, and how many unknown columns were dropped. Raises WrongBatch.

    What a body may make us allocate is bounded by MAX_RAW, whatever it claims.
    """
    raw = _decompress(batch) if batch.zstd else batch.body
    if len(raw) != batch.raw_size:
        raise WrongBatch("bad_zstd", f"columns of {len(raw)} bytes, {batch.raw_size} were claimed")
    if (columns := compiled.unpack(batch.kind, raw, batch.rows)) is not None:
        return columns, 0
    try:
        packed = _unpack(raw, MAX_RAW)
    except WrongMessage as error:
        raise WrongBatch(error.code, error.detail) from None
    if not all(isinstance(name, str) for name in packed) or len(packed) > MAX_COLUMNS:
        raise WrongBatch("bad_column", "columns have wrong names or are too many")
    return unpack_columns(TABLES[batch.kind], packed, batch.rows)


def _decompress(batch: Batch) -> bytes:
    try:
        decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
        raw: bytes = decompressor.decompress(batch.body, max_length=batch.raw_size + 1)
    except zstd.ZstdError:
        raise WrongBatch("bad_zstd", "the columns are not zstd") from None
    if not decompressor.eof or decompressor.unused_data:
        raise WrongBatch("bad_zstd", "the columns are cut, larger than claimed, or followed by other bytes")
    return raw
