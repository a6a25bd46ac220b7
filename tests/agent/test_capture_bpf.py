from __future__ import annotations

import struct

import pytest

from agent.capture import CaptureError
from agent.capture.bpf import REJECT, accept, compile_filter, fits, only_interfaces


def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    return [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]


def run_prefix(program: bytes, ifindex: int) -> int:
    """What a program without loads beyond the interface index returns for a frame of an interface."""
    code, at = instructions(program), 0
    while True:
        op, jump_true, jump_false, operand = code[at]
        if op == 0x06:
            return operand
        if op == 0x15:
            at += jump_true if ifindex == operand else jump_false
        elif op == 0x05:
            at += operand
        else:
            assert (op, operand) == (0x20, 0xFFFFF008), "not a load of the interface index"
        at += 1


@pytest.mark.parametrize("count", [1, 2, 300, 1500])
def test_only_the_chosen_interfaces_pass(count: int) -> None:
    chosen = [3 * number + 2 for number in range(count)]
    program = only_interfaces(chosen, accept(99))
    assert [run_prefix(program, index) for index in (chosen[0], chosen[-1])] == [99, 99]
    assert [run_prefix(program, index) for index in (1, 3, chosen[-1] + 1)] == [0, 0, 0]


def test_what_the_kernel_takes() -> None:
    assert fits(only_interfaces(range(2000), accept(99)))
    assert not fits(only_interfaces(range(2100), accept(99)))


def test_a_filter_returns_the_snap_length() -> None:
    program = compile_filter("ip", 1, snaplen=77)
    assert {operand for op, _, _, operand in instructions(program) if op == 0x06} == {77, 0}
    assert instructions(REJECT) == [(6, 0, 0, 0)]


def test_link_types_differ() -> None:
    assert compile_filter("ip", 1) != compile_filter("ip", 101)
    with pytest.raises(CaptureError, match="bad filter 'ether host 1:2:3:4:5:6'"):
        compile_filter("ether host 1:2:3:4:5:6", 101)
