"""`nodetap pcap` at its own end: what it writes, what it leaves behind, what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.cli.errors import CliError, HubLost
from hub.cli.pcap import copied, sentence
from hub.cli.target import target
from protocol import ending

SAID: dict[str, Any] = {"nodetap.completeness": {"complete": True}}


@given(st.binary(max_size=5000), st.lists(st.integers(1, 700), max_size=20))
def test_all_but_the_ending_is_written_whatever_the_chunks(body: bytes, cuts: list[int]) -> None:
    data, chunks, out = body + ending.pack(SAID), [], bytearray()
    for cut in cuts:
        chunks.append(data[:cut])
        data = data[cut:]
    assert copied([*chunks, data], out.extend) == SAID
    assert bytes(out) == body


def test_much_is_written_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "MOST", 1000)
    written: list[int] = []
    body = bytes(100_000)
    chunks = [body[i : i + 700] for i in range(0, len(body), 700)]
    copied([*chunks, ending.pack(SAID)], lambda data: written.append(len(data)))
    assert sum(written) == len(body)
    assert max(written) < 3000


def test_an_answer_without_its_ending_was_cut() -> None:
    with pytest.raises(HubLost, match="cut off"):
        copied([b"abc"], lambda data: None)


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    path.write_bytes(b"old")
    with target(str(path), private=True) as write:
        write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), HubLost("gone"), ValueError()])
def test_what_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with target(str(tmp_path / "x.pcapng"), private=True) as write:
            write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "said"), [("no/x", "No such file"), (".", "folder"), ("/dev/full", "No space left")])
def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CliError, match=said) as caught, target(path, private=True) as write:
        write(bytes(1 << 20))
    assert caught.value.code == 1
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


ANSWER: dict[str, Any] = {
    "complete": False, "frames": 1234, "bytes": 99, "agents": ["a"], "missing": [], "begins": {}, "gaps": [],
    "cut": None,
}  # fmt: skip


@pytest.mark.parametrize(("more", "line"), [
    ({"complete": True}, "complete: 1,234 frames, 1 agent"),
    ({"complete": True, "frames": 0, "agents": []}, "complete: 0 frames, 0 agents: none is connected"),
    ({"cut": "bytes"}, "INCOMPLETE: cut after 99 bytes (--max-bytes) (1,234 frames, 1 agent)"),
    ({"missing": [{"agent": "b", "reason": "stalled", "detail": "silent"}]},
     "INCOMPLETE: b missing (stalled: silent) (1,234 frames, 1 agent)"),
    ({"begins": {"a": "2026"}}, "INCOMPLETE: a has frames from 2026 on only (1,234 frames, 1 agent)"),
    ({"gaps": [{"agent": "a", "reason": "disk_slow", "frames": 2}, {"agent": "a", "reason": "disk_slow", "frames": 3},
               {"agent": "a", "reason": "agent_restarted", "frames": None}]},
     "INCOMPLETE: 5 frames of a not recorded (disk_slow); frames of a not recorded (agent_restarted)"
     " (1,234 frames, 1 agent)"),
])  # fmt: skip
def test_the_line_says_what_is_not_there(more: dict[str, Any], line: str) -> None:
    assert sentence({**ANSWER, **more}) == line
