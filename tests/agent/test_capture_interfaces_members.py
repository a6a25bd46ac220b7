from __future__ import annotations

import numpy as np

from agent.capture.interfaces import InterfaceInfo
from agent.capture.members import LINGER, Members


def face(index: int, name: str, loopback: bool = False) -> InterfaceInfo:
    return InterfaceInfo(name, index, True, loopback, 1, (), 1)


class Places(dict[str, int]):
    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def places(members: Members, *indexes: int) -> list[int | None]:
    at, there = members.known.find(np.array(indexes, dtype=np.int32))
    return [int(members.known.place[a]) if t else None for a, t in zip(at, there, strict=True)]


def test_interfaces_come_go_and_come_back_under_their_names() -> None:
    members = Members(Places().__getitem__)
    assert places(members, 0, 7) == [None, None], "at first there is none"
    assert members.update([face(9, "b"), face(7, "a")], 0.0)
    assert places(members, 7, 9, 8) == [0, 1, None]
    assert not members.update([face(7, "a"), face(9, "b")], 1.0), "nothing new"
    assert members.update([face(9, "b")], 2.0)
    assert places(members, 7, 9) == [0, 1], "frames of a may still lie in the ring"
    assert members.update([face(9, "b"), face(12, "a")], 3.0)
    assert places(members, 7, 9, 12) == [0, 1, 0]
    assert members.update([face(9, "b")], 2.5 + LINGER)
    assert places(members, 7, 9, 12) == [None, 1, 0]


def test_a_new_name_is_another_interface_and_an_index_can_be_used_again() -> None:
    members = Members(Places().__getitem__)
    members.update([face(7, "a")], 0.0)
    assert members.update([face(7, "wan")], 1.0)
    assert places(members, 7) == [1]
    members.update([], 2.0)
    assert members.update([face(7, "a")], 3.0)
    members.update([face(7, "a"), face(8, "b")], 9 + LINGER)
    assert places(members, 7, 8) == [0, 2], "it is there and not let go of"
