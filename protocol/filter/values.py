"""The values of a filter: one row per kind of value, and one per operator.

A literal is a plain Python value: int (uint, int, bool, mac, epoch; nanoseconds for times), str (text), bytes, an
address or a network. A `Kind` knows how its literals are read from a filter and printed back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from protocol.filter.times import date_ns, is_date
from protocol.schema import WRAP_NS

Literal: TypeAlias = "int | str | bytes | IPv4Address | IPv6Address | IPv4Network | IPv6Network"

_U64 = 1 << 64
_I64 = 1 << 63


class BadValue(ValueError):
    """A literal that the field cannot hold; the text says what it expects."""


DEFAULT: dict[str, str] = {
    "==": "any",
    "!=": "all",
    ">": "any",
    "<": "any",
    ">=": "any",
    "<=": "any",
    "contains": "any",
    "matches": "any",
}
"""Operator -> whether any or all values must pass where there are several, as in Wireshark 4. `any` and `all` in front
of a comparison say it, and so do the operators of `SPELLED`."""

SPELLED = {"===": ("==", "all"), "!==": ("!=", "any")}
ALIASES = {
    "eq": "==", "any_eq": "==", "ne": "!=", "all_ne": "!=", "all_eq": "===", "any_ne": "!==", "~=": "!==",
    "gt": ">", "lt": "<", "ge": ">=", "le": "<=", "~": "matches",
}  # fmt: skip

_EQUALITY = ("==", "!=")
_ORDER = (*_EQUALITY, ">", "<", ">=", "<=")


def unsigned(text: str, limit: int = _U64) -> int:
    """A number below `limit`: decimal, hexadecimal `0x1f`, octal `017` (so `08` is none), binary `0b101`.

    Raises BadValue.
    """
    number = _integer(text)
    if number is None or number >= limit:
        raise BadValue(f"a number from 0 to {limit - 1}")
    return number


_BASES = (
    (r"0[xX]([0-9a-fA-F]{1,16})", 16),
    (r"0[bB]([01]{1,64})", 2),
    (r"0([0-7]{1,22})", 8),
    (r"(0|[1-9][0-9]{0,19})", 10),
)


def _integer(text: str) -> int | None:
    for pattern, base in _BASES:
        if match := re.fullmatch(pattern, text, re.ASCII):
            return int(match[1], base)
    return None


def signed(text: str) -> int:
    """A number as `unsigned` reads it, with a sign in front where it is below zero. Raises BadValue."""
    try:
        number = -unsigned(text[1:], _I64) if text.startswith("-") else unsigned(text, _I64)
    except BadValue:
        raise BadValue("a whole number") from None
    return number


def _flag(text: str) -> int:
    words = {"true": 1, "set": 1, "false": 0, "not set": 0}
    number = words.get(text.lower(), _integer(text))
    if number is None:
        raise BadValue("0, 1, true or false")
    return int(number != 0)


def _nanoseconds(text: str) -> int:
    """Seconds with up to 9 decimals as nanoseconds."""
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


def _moment(text: str) -> int:
    """Nanoseconds since 1970: seconds, or a date and time, which is in UTC if it names no zone."""
    if not is_date(text):
        return _nanoseconds(text)
    try:
        return date_ns(text)
    except ValueError as error:
        raise BadValue(str(error)) from None


def _seconds(nanoseconds: int) -> str:
    sign, rest = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    return f"{sign}{rest // 10**9}.{rest % 10**9:09}"


_MAC = r"[0-9a-fA-F]{2}(([:-])[0-9a-fA-F]{2})(\2[0-9a-fA-F]{2}){4}|[0-9a-fA-F]{4}(\.[0-9a-fA-F]{4}){2}"


def _mac(text: str) -> int:
    if not re.fullmatch(_MAC, text.replace("-", ":")):
        raise BadValue("a MAC address such as 00:11:22:aa:bb:cc")
    return int(re.sub("[:.-]", "", text), 16)


def _bytes(text: str) -> bytes:
    """Hex digits, two a byte, with `:`, `-`, `.` between them or nothing; a quoted text is its bytes."""
    digits = re.sub(r"(?<=[0-9a-fA-F]{2})[:.-](?=[0-9a-fA-F]{2})", "", text.removeprefix("0x"))
    if not re.fullmatch(r"([0-9a-fA-F]{2})+|[0-9a-fA-F]", digits):
        raise BadValue("bytes such as 00:11:22, or a quoted text")
    return bytes.fromhex(digits.rjust(2, "0"))


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


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "f": "\f", "v": "\v", "\\": "\\", '"': '"', "'": "'"}
_PRINTED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def unquote(token: str) -> str:
    r"""The text of a quoted string: `\n \t \r \a \f \v \\ \" \' \xHH \OOO`; any other backslash stays, so that
    `"\d"` is a pattern.

    `r"..."` keeps every backslash.
    """
    if token.startswith("r"):
        return token[2:-1]
    return re.sub(r"\\(x[0-9a-fA-F]{2}|[0-3][0-7]{2}|.)", _unescape, token[1:-1], flags=re.DOTALL)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if len(code) == 3:
        return chr(int(code[1:], 16) if code[0] == "x" else int(code, 8))
    return _ESCAPES.get(code, match.group(0))


def quote(text: str) -> str:
    """`text` as a quoted string of a filter, on one line."""
    return (
        '"'
        + "".join(_PRINTED.get(c) or (c if c.isprintable() or ord(c) > 255 else f"\\x{ord(c):02x}") for c in text)
        + '"'
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """How the literals of one kind of value are read (raises BadValue) and printed, and what compares them.

    Values of one `family` compare with each other. `ranges`: whether one lies between two.
    """

    read: Callable[[str], Literal]
    show: Callable[..., str]
    family: str
    operators: tuple[str, ...] = _ORDER
    ranges: bool = True


def _hex(value: bytes) -> str:
    return value.hex(":")


KINDS: dict[str, Kind] = {
    "uint": Kind(unsigned, str, "number"),
    "int": Kind(signed, str, "number"),
    "bool": Kind(_flag, str, "number", _ORDER),
    "time": Kind(_moment, _seconds, "time"),
    "seconds": Kind(_nanoseconds, _seconds, "time"),
    "ip": Kind(_address, str, "ip"),
    "mac": Kind(_mac, lambda value: value.to_bytes(6, "big").hex(":"), "mac"),
    "epoch": Kind(_epoch, "{:016x}".format, "epoch", _EQUALITY, ranges=False),
    "text": Kind(str, quote, "text", (*_ORDER, "contains", "matches")),
    "bytes": Kind(_bytes, _hex, "bytes", (*_ORDER, "contains", "matches")),
}
