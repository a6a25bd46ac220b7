"""A look over a msgpack value before it is built: how many values, how deep, how long the strings.

msgpack reserves memory by what headers claim, and one byte can become an object of 64: sixteen megabytes of empty
maps would take more than a gigabyte. `survey` walks the headers, builds nothing, and stops at the limits, so that what
is built afterwards is as large as it says. One loop per value, at most `MAX_VALUES`: binaries are stepped over. The
compiled kernel (`protocol.kernel`) does it where it is there; what it does not like is looked at again here.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from protocol import kernel
from protocol.errors import WrongMessage
from protocol.limits import MAX_DEPTH, MAX_STRING, MAX_STRINGS, MAX_VALUES

_PLAIN, _BIN, _STR, _ARRAY, _MAP, _BAD = range(6)

_SIZES: dict[int, tuple[int, int]] = {  # first byte: what it starts, bytes of the head
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (_PLAIN, 1)),
    **dict.fromkeys((0xCC, 0xD0), (_PLAIN, 2)),
    **dict.fromkeys((0xCD, 0xD1), (_PLAIN, 3)),
    **dict.fromkeys((0xCA, 0xCE, 0xD2), (_PLAIN, 5)),
    **dict.fromkeys((0xCB, 0xCF, 0xD3), (_PLAIN, 9)),
    **{0xC4 + i: (_BIN, 1 + (1 << i)) for i in range(3)},
    **{0xD9 + i: (_STR, 1 + (1 << i)) for i in range(3)},
    **{0xDC + i: (_ARRAY, 3 + 2 * i) for i in range(2)},
    **{0xDE + i: (_MAP, 3 + 2 * i) for i in range(2)},
}


def _head(byte: int) -> tuple[int, int, int]:
    """What a first byte starts: kind, bytes of the head, and the count where the byte itself holds it."""
    if byte < 0x80 or byte >= 0xE0:
        return _PLAIN, 1, 0
    if byte < 0x90:
        return _MAP, 1, byte & 0x0F
    if byte < 0xA0:
        return _ARRAY, 1, byte & 0x0F
    if byte < 0xC0:
        return _STR, 1, byte & 0x1F
    return *_SIZES.get(byte, (_BAD, 1)), 0  # 0xC1 is never used, extension types we do not speak


_HEADS = tuple(_head(byte) for byte in range(256))


def survey(
    data: bytes,
    values: int = MAX_VALUES,
    depth: int = MAX_DEPTH,
    string: int = MAX_STRING,
    strings: int = MAX_STRINGS,
) -> int:
    """How many values `data` holds, which must be exactly one msgpack value with all that is in it.

    At most `values` values, `depth` containers in each other, `string` bytes in one string and `strings` in all.
    Raises WrongMessage: `too_large` beyond a limit, `bad_msgpack` where it is cut, followed by other bytes, or holds
    an extension type.
    """
    library = kernel.load()
    if library is not None and (found := library.nodetap_survey(data, len(data), values, depth, string, strings)) >= 0:
        return int(found)
    return _survey(data, values, depth, string, strings)


def _survey(data: bytes, values: int, depth: int, string: int, strings: int) -> int:
    at, count, text, open_ = 0, 1, 0, [1]  # open_: values still to come, per container we are in
    try:
        while open_:
            kind, size, number = _HEADS[data[at]]
            if size > 1 and kind != _PLAIN:
                number = int.from_bytes(data[at + 1 : at + size], "big")
            at += size
            open_[-1] -= 1
            if kind in (_ARRAY, _MAP):
                number *= kind - _ARRAY + 1
                count += number
                open_.append(number)
                if count > values or len(open_) - 1 > depth:
                    _bound(count, values, "values")
                    _bound(len(open_) - 1, depth, "containers in each other")
            elif kind == _STR:
                at, text = at + number, text + number
                if number > string or text > strings:
                    _bound(number, string, "bytes in a string")
                    _bound(text, strings, "bytes in strings")
            elif kind == _BIN:
                at += number
            elif kind == _BAD:
                raise WrongMessage("bad_msgpack", "not msgpack: an extension type or an unused byte")
            while open_ and not open_[-1]:
                open_.pop()
    except IndexError:
        raise WrongMessage("bad_msgpack", "not msgpack: cut") from None
    if at != len(data):
        raise WrongMessage("bad_msgpack", "not msgpack: cut or followed by other bytes")
    return count


def _bound(number: int, limit: int, what: str) -> None:
    if number > limit:
        raise WrongMessage("too_large", f"{number} {what}, the limit is {limit}")
