"""Errors say whose fault it was, in the words of CODES."""

from __future__ import annotations

import pytest

from protocol.errors import (
    CODES,
    IllegalMoment,
    LocalError,
    NodetapError,
    Refused,
    RemoteError,
    WrongBatch,
    WrongMessage,
)


@pytest.mark.parametrize("code", CODES)
def test_a_code_explains_itself(code: str) -> None:
    error = RemoteError(code)
    assert (error.code, error.detail, str(error)) == (code, CODES[code], f"{code}: {CODES[code]}")
    assert str(RemoteError(code, "the rest")) == f"{code}: the rest"


@pytest.mark.parametrize("cls", [RemoteError, WrongMessage, WrongBatch])
def test_a_code_that_is_not_in_the_table_is_our_own_mistake(cls: type[RemoteError]) -> None:
    with pytest.raises(LocalError, match="no_such_code"):
        cls("no_such_code")


def test_whose_fault_it_was() -> None:
    assert not issubclass(LocalError, RemoteError)
    for cls in (WrongMessage, WrongBatch, IllegalMoment, Refused):
        assert issubclass(cls, RemoteError)
    assert issubclass(LocalError, NodetapError)
    assert issubclass(RemoteError, NodetapError)
    assert IllegalMoment("an ack").code == "illegal_moment"


def test_a_refusal_of_a_newer_hub_is_still_a_refusal() -> None:
    error = Refused("from_the_future", "go away", 2.5)
    assert (error.code, error.detail, error.retry_after) == ("illegal_moment", "from_the_future: go away", 2.5)
    assert Refused("busy").code == "busy"
    assert Refused("busy").retry_after is None
