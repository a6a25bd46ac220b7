"""JA4 by the examples that FoxIO's specification gives."""

from __future__ import annotations

import struct

import pytest

from agent.l7.ja4 import GREASE, NOTHING, ja4, newest

CIPHERS = "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"
EXTENSIONS = "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015"
SIGNATURES = "0403,0804,0401,0503,0805,0501,0806,0601"


def packed(text: str) -> bytes:
    values = [int(value, 16) for value in text.split(",")]
    return struct.pack(f">{len(values)}H", *values)


def kinds(text: str) -> list[int]:
    return [int(value, 16) for value in text.split(",")]


def test_the_specifications_example() -> None:
    said = ja4("t", 0x0304, packed(CIPHERS), kinds(EXTENSIONS), b"h2", packed(SIGNATURES))
    assert said == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_order_and_grease_do_not_matter() -> None:
    ciphers = packed("1a1a," + ",".join(reversed(CIPHERS.split(","))))
    extensions = [0x2A2A, *reversed(kinds(EXTENSIONS)), 0xFAFA]
    said = ja4("q", 0x0304, ciphers, extensions, b"h3", packed("8a8a," + SIGNATURES))
    assert said == "q13d1516h3_8daaf6152771_e5627efa2ab1"


def test_the_order_of_signatures_matters() -> None:
    turned = ",".join(reversed(SIGNATURES.split(",")))
    said = ja4("t", 0x0304, packed(CIPHERS), kinds(EXTENSIONS), b"h2", packed(turned))
    assert said.rpartition("_")[2] != "e5627efa2ab1"


@pytest.mark.parametrize(
    ("alpn", "ends"),
    [(b"", "00"), (b"h2", "h2"), (b"http/1.1", "h1"), (b"h", "hh"), (b"\xab", "ab"), (b"\xab\xcd", "ad"),
     (b"\x30\xab", "3b"), (b"\x30\x31\xab\xcd", "3d"), (b"0\xab1", "01")],
)  # fmt: skip
def test_alpn(alpn: bytes, ends: str) -> None:
    assert ja4("t", 0x0303, b"", [], alpn, b"") == f"t12i0000{ends}_{NOTHING}_{NOTHING}"


def test_more_than_99_are_99() -> None:
    said = ja4("d", 0xFEFD, packed(",".join(f"{i:04x}" for i in range(300))), list(range(300)), b"", b"")
    assert said.startswith("dd2d999900_")


@pytest.mark.parametrize(
    ("versions", "legacy", "highest"),
    [([], 0x0301, 0x0301), ([0xFAFA, 0x0303, 0x0304], 0x0303, 0x0304), ([0x0A0A], 0x0303, 0x0303),
     ([0xFEFC, 0xFEFD], 0xFEFD, 0xFEFC)],
)  # fmt: skip
def test_the_highest_version(versions: list[int], legacy: int, highest: int) -> None:
    assert newest(versions, legacy) == highest


def test_grease_is_the_sixteen_values_of_rfc_8701() -> None:
    assert len(GREASE) == 16
    assert {0x0A0A, 0x7A7A, 0xFAFA} < GREASE
