from __future__ import annotations

import pytest

from agent.capture import CaptureError
from agent.capture.interfaces import InterfaceInfo, choose, list_interfaces

THERE = [
    InterfaceInfo("lo", 1, True, True, 1, ("127.0.0.1", "::1"), 772),
    InterfaceInfo("eth0", 2, True, False, 1, ("192.0.2.1",), 1),
    InterfaceInfo("veth1", 3, True, False, 1, (), 1),
    InterfaceInfo("ib0", 4, True, False, None, (), 32),
]


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (["*"], [], ["lo", "eth0", "veth1"]),
        (["eth*", "lo"], [], ["lo", "eth0"]),
        (["*"], ["lo", "veth*"], ["eth0"]),
        (["eth[0-9]"], [], ["eth0"]),
    ],
)
def test_choose(include: list[str], exclude: list[str], names: list[str]) -> None:
    assert [interface.name for interface in choose(THERE, include, exclude)] == names


def test_nothing_chosen_names_what_there_is() -> None:
    with pytest.raises(CaptureError, match=r"no interface matches wlan0; there are: lo, eth0, veth1$"):
        choose(THERE, ["wlan0"])
    with pytest.raises(CaptureError, match="no interface matches eth0"):
        choose(THERE, ["eth0"], ["eth*"])


def test_a_kind_that_cannot_be_captured_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"cannot capture on ib0: .*ARPHRD 32"):
        choose(THERE, ["ib0"])


def test_this_host_has_loopback() -> None:
    (loopback,) = [interface for interface in list_interfaces() if interface.loopback]
    assert loopback.linktype == 1
    assert loopback.up == ("127.0.0.1" in loopback.addresses)
