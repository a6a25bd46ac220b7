"""`nodetap capture` at its own end: whole blocks whatever the pieces, and what it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.cli.blocks import Blocks
from hub.cli.capture import News, Recording, told
from hub.cli.errors import CliError, HubLost
from protocol import ending, pcapng

SAID: dict[str, Any] = {
    "complete": True, "agents": ["a"], "waiting": [], "missing": [], "gaps": [], "cut": None, "frames": 0, "bytes": 0,
}  # fmt: skip
BLOCKS = st.one_of(
    st.builds(lambda data: pcapng.packet(data, len(data), 1, 0), st.binary(max_size=30)),
    st.just(pcapng.interface("eth0", 1)),
    st.builds(lambda number: ending.pack({"nodetap.progress": {**SAID, "frames": number}}), st.integers(0, 9)),
)


@given(st.lists(BLOCKS, max_size=20), st.lists(st.integers(1, 60), max_size=40), st.integers(0, 40))
def test_whole_blocks_are_given_out_and_words_are_told(blocks: list[bytes], cuts: list[int], less: int) -> None:
    whole = b"".join(blocks)
    data, cutter, out, words = whole[: max(0, len(whole) - less)], Blocks(), [], []
    rest = data
    for cut in [*cuts, len(data)]:
        piece, rest = rest[:cut], rest[cut:]
        given_out, said = cutter.feed(piece)
        out.append(given_out)
        words += said
    arrived, size = [], 0
    for block in blocks:
        size += len(block)
        if size <= len(data):
            arrived.append(block)
    assert b"".join(out) == b"".join(each for each in arrived if each[:4] != ending.pack({})[:4])
    assert words == [ending.find(each)[0] for each in arrived if ending.find(each)]  # type: ignore[index]
    assert cutter.frames == sum(each[:4] == b"\x06\0\0\0" for each in arrived)


@pytest.mark.parametrize("data", [b"<html>no capture</html>", bytes(12), ending.pack({})[:8] + b"[no JSON"])
def test_what_is_no_capture_is_told(data: bytes) -> None:
    with pytest.raises(HubLost):
        Blocks().feed(data.ljust(40, b"x"))


class Client:
    """A hub that answers with these chunks, and then maybe with Ctrl-C."""

    url = "http://hub"

    def __init__(self, *chunks: bytes | BaseException) -> None:
        self.chunks = chunks

    def stream(self, *_: Any, **__: Any) -> Client:
        return self

    def __enter__(self) -> tuple[None, Any]:
        def given() -> Any:
            for chunk in self.chunks:
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk

        return None, given()

    def __exit__(self, *_: object) -> None:
        return None


HEAD = pcapng.section("test") + pcapng.interface("eth0", 1)
FRAME = pcapng.packet(bytes(20), 20, 1, 0)


def record(*chunks: bytes | BaseException) -> tuple[Recording, bytes]:
    out = bytearray()
    recording = Recording(out.extend, lambda said: None)
    recording.run(Client(*chunks), {})  # type: ignore[arg-type]
    return recording, bytes(out)


def test_it_ends_with_what_the_hub_says(capsys: pytest.CaptureFixture[str]) -> None:
    end = ending.pack({"nodetap.completeness": {**SAID, "cut": "frames"}})
    recording, out = record(HEAD, FRAME + FRAME[:5], FRAME[5:] + end)
    assert out == HEAD + FRAME + FRAME
    assert told(recording, None, True) == 0
    assert capsys.readouterr().err == "complete: 2 frames, 1 agent; ended by --limit\n"


def test_ctrl_c_leaves_whole_blocks_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ending.pack({"nodetap.progress": {**SAID, "complete": False, "gaps": [
        {"agent": "a", "reason": "agent_busy", "frames": 3}]}})  # fmt: skip
    recording, out = record(HEAD + progress, FRAME + FRAME[:9], KeyboardInterrupt())
    assert out == HEAD + FRAME
    assert told(recording, None, False) == 0
    assert told(recording, None, True) == 4
    assert capsys.readouterr().err.splitlines()[0] == (
        "INCOMPLETE: 3 frames of a not here (agent_busy) (1 frame, 1 agent)"
    )


@pytest.mark.parametrize("trouble", [HubLost("the hub is gone"), None, "error"])
def test_a_hub_that_breaks_off_leaves_what_came(trouble: Any) -> None:
    error = ending.pack({"nodetap.error": {"code": "internal", "status": 500, "detail": "a bug"}})
    last = [error] if trouble == "error" else [] if trouble is None else [trouble]
    recording, out = record(HEAD, FRAME, *last)
    assert out == HEAD + FRAME
    with pytest.raises(CliError, match=r"out\.pcapng has the 1 frame that came before") as caught:
        told(recording, "out.pcapng", False)
    assert caught.value.code == 3


def test_what_goes_wrong_before_the_first_byte_is_raised() -> None:
    for error in (HubLost("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            record(error)


def test_a_hub_that_was_stopped_is_not_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    recording, _ = record(
        HEAD, ending.pack({"nodetap.completeness": {**SAID, "complete": False, "cut": "hub_stopped"}})
    )
    assert told(recording, None, False) == 3
    assert capsys.readouterr().err == "INCOMPLETE: the hub was stopped (0 frames, 1 agent)\n"


def test_news_tell_what_changes_once() -> None:
    lines: list[str] = []
    news = News(lines.append)
    gone = {"agent": "b", "reason": "stalled", "detail": "silent"}
    news.heed({**SAID, "agents": [], "waiting": ["a", "b"]})
    assert lines == []
    for agents, waiting, missing in (
        (["a"], [], [gone]), (["a"], [], [gone]), (["a"], ["b"], []), (["a", "b", "c"], [], []), (["a", "b"], [], []),
        (["b"], [], [{**gone, "agent": "a"}]),
    ):  # fmt: skip
        news.heed({**SAID, "agents": agents, "waiting": waiting, "missing": missing})
    assert lines == [
        "capturing from 1 agent; Ctrl-C ends it", "b missing (stalled: silent)", "b takes part", "c takes part",
        "c left", "a missing (stalled: silent)",
    ]  # fmt: skip
