"""The values of a filter: one row per kind of field, and one per operator.

A literal is a plain Python value: int (uint, bool, mac, epoch; nanoseconds for times), str (text), an address or a
network. A `Kind` knows how its literals are read from a filter, printed back and handed to the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from hub.query.window import rfc3339_ns
from protocol.schema import WRAP_NS

Literal: TypeAlias = "int | str | IPv4Address | IPv6Address | IPv4Network | IPv6Network"

_U64 = 1 << 64
_I64 = 1 << 63


class BadValue(ValueError):
    """A literal that the field cannot hold; the text says what it expects."""


@dataclass(frozen=True, slots=True)
class Operator:
    """How an operator compares: the SQL of it, and whether any or all values of a field must pass (`quantifier`).

    Fields with several values follow Wireshark 4: `==` asks for any equal one, `!=` that all differ, `===` that all
    are equal, `!==` that any differs.
    """

    sql: str
    quantifier: str = "any"


OPERATORS: dict[str, Operator] = {
    "==": Operator("="),
    "!=": Operator("!=", "all"),
    "===": Operator("=", "all"),
    "!==": Operator("!="),
    ">": Operator(">"),
    "<": Operator("<"),
    ">=": Operator(">="),
    "<=": Operator("<="),
    "contains": Operator("contains"),
    "matches": Operator("matches"),
}
ALIASES = {
    "eq": "==", "any_eq": "==", "ne": "!=", "all_ne": "!=", "all_eq": "===", "any_ne": "!==",
    "gt": ">", "lt": "<", "ge": ">=", "le": "<=", "~": "matches",
}  # fmt: skip

_EQUALITY = ("==", "!=", "===", "!==")
_ORDER = (*_EQUALITY, ">", "<", ">=", "<=")


def unsigned(text: str, limit: int = _U64) -> int:
    """An integer, decimal or hexadecimal (`0x1f`), below `limit`. Raises BadValue."""
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", text, re.ASCII) or (number := _integer(text)) >= limit:
        raise BadValue(f"a number from 0 to {limit - 1}")
    return number


def _integer(text: str) -> int:
    return int(text, 16) if text[:2] in ("0x", "0X") else int(text)


def _flag(text: str) -> int:
    words = {"1": 1, "true": 1, "0": 0, "false": 0}
    if text.lower() not in words:
        raise BadValue("0, 1, true or false")
    return words[text.lower()]


def _nanoseconds(text: str) -> int:
    """Seconds with up to 9 decimals as nanoseconds, or an RFC 3339 time."""
    if re.match(r"\d{4}-\d\d-\d\d", text):
        try:
            return rfc3339_ns(text)
        except ValueError as error:
            raise BadValue(str(error)) from None
    try:
        if len(text) > 40 or not re.fullmatch(r"-?[0-9]*\.?[0-9]*", text, re.ASCII):
            raise InvalidOperation
        scaled = Decimal(text).scaleb(9)
        if scaled >= WRAP_NS - _I64:  # a time that was printed so can be asked for
            scaled -= WRAP_NS
        if scaled != scaled.to_integral_value() or not -_I64 <= scaled < _I64:
            raise InvalidOperation
    except InvalidOperation:
        raise BadValue("seconds, with up to 9 decimals") from None
    return int(scaled)


def _seconds(nanoseconds: int) -> str:
    sign, rest = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    return f"{sign}{rest // 10**9}.{rest % 10**9:09}"


def _mac(text: str) -> int:
    if not re.fullmatch(r"[0-9a-fA-F]{2}(([:-])[0-9a-fA-F]{2})(\2[0-9a-fA-F]{2}){4}", text.replace("-", ":")):
        raise BadValue("a MAC address such as 00:11:22:aa:bb:cc")
    return int(re.sub("[:-]", "", text), 16)


def _epoch(text: str) -> int:
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,16}", text):
        raise BadValue("a run of 16 hex digits")
    return int(text, 16)


def _address(text: str) -> Literal:
    if "%" in text:  # a zone: ipaddress would take it
        raise BadValue("an address without a zone")
    try:
        return ip_network(text, strict=False) if "/" in text else ip_address(text)
    except ValueError:
        raise BadValue("an IP address or a network such as 10.0.0.0/8") from None


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_PRINTED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def unquote(token: str) -> str:
    r"""The text of a quoted string: `\n \t \r \\ \" \' \xHH`; any other backslash stands, so that `"\d"` is a pattern.

    `r"..."` keeps every backslash.
    """
    if token.startswith("r"):
        return token[2:-1]
    return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", _unescape, token[1:-1], flags=re.DOTALL)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    return chr(int(code[1:], 16)) if len(code) == 3 else _ESCAPES.get(code, match.group(0))


def quote(text: str) -> str:
    """`text` as a quoted string of a filter, on one line."""
    return (
        '"'
        + "".join(_PRINTED.get(c) or (c if c.isprintable() or ord(c) > 255 else f"\\x{ord(c):02x}") for c in text)
        + '"'
    )


def check_pattern(pattern: str) -> None:
    """Refuse what the store's RE2 does not know: look-around, back references, atomic groups. Raises BadValue."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadValue(f"a regular expression ({error})") from None
    if re.search(r"\(\?(<?[=!]|>|\(|P=|#)|(?<!\\)(\\\\)*\\[1-9]", pattern):
        raise BadValue("a regular expression without look-around and back references (RE2)")


@dataclass(frozen=True, slots=True)
class Kind:
    """How the literals of one kind of field are read (raises BadValue), printed, and typed in the store."""

    read: Callable[[str], Literal]
    show: Callable[..., str]
    clickhouse: str
    operators: tuple[str, ...] = _ORDER


KINDS: dict[str, Kind] = {
    "uint": Kind(unsigned, str, "UInt64"),
    "uints": Kind(unsigned, str, "UInt64"),
    "bool": Kind(_flag, str, "UInt8", _EQUALITY),
    "time": Kind(_nanoseconds, _seconds, "Int64"),
    "seconds": Kind(_nanoseconds, _seconds, "Int64"),
    "ip": Kind(_address, str, "IPv6"),
    "mac": Kind(_mac, lambda value: ":".join(f"{value:012x}"[i : i + 2] for i in range(0, 12, 2)), "UInt64"),
    "epoch": Kind(_epoch, "{:016x}".format, "UInt64", _EQUALITY),
    **dict.fromkeys(("text", "texts", "map"), Kind(str, quote, "String", (*_EQUALITY, "contains", "matches"))),
}
