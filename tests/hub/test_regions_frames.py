"""Raw frames of several hubs as one capture: as one hub with all agents has them, and what a hub costs that is away."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from procs import free_port, until

from hub.cli.client import Client, Head, Settings
from hub.cli.errors import CliError, HubLost
from hub.cli.main import run
from hub.cli.regions.feed import AHEAD
from hub.cli.regions.frames import Recorded
from hub.cli.regions.live import Captured
from hub.cli.regions.parts import Reader
from hub.pcap.merge import Gap, Merge
from hub.query.window import format_ns
from protocol import ending, pcapng
from tests.hub.test_pcap_merge import AGENTS, NEVER, T0, part_of, read

Body: TypeAlias = "Iterable[bytes | Callable[[], object]]"


def told(agents: Iterable[str], cut: str | None = None, **more: Any) -> dict[str, Any]:
    """The completeness of an answer."""
    nothing = {"missing": [], "gaps": [], "lost": {}, "begins": {}, "waiting": []}
    return {
        "complete": not cut,
        "since": format_ns(T0),
        "until": "y",
        "agents": list(agents),
        **nothing,
        "cut": cut,
    } | more


def words(kind: str, agents: Iterable[str], cut: str | None = None, **more: Any) -> bytes:
    return ending.pack({f"nodetap.{kind}": told(agents, cut, **more)})


def merged(agents: dict[str, list[tuple[int, bytes, int]]], comment: str = "", **caps: int) -> bytes:
    """What a hub with these agents answers, but for its end."""
    merge = Merge(agents, "test", **caps)
    if comment:
        merge.remark("", comment)
    for name, frames in agents.items():
        in_order = sorted(frames, key=lambda frame: frame[0])
        merge.add(name, *part_of(in_order, [[f"{name}0", 1], [f"{name}1", 1]], NEVER, True))
    return merge.take() + merge.end()


class Pieces:
    """A feed whose body is there, in pieces."""

    trouble = None
    head = Head(200, {})

    def __init__(self, url: str, data: bytes, seed: int = 0) -> None:
        self.url, self._data, self._random = url, data, random.Random(seed)

    def chunks(self) -> Iterator[bytes]:
        rest = self._data
        while rest:
            size = self._random.randint(1, 300)
            yield rest[:size]
            rest = rest[size:]

    def stop(self) -> None:
        """Nothing goes on."""


def together(*answers: bytes, **asked: Any) -> tuple[bytes, dict[str, Any]]:
    """The file, and its completeness."""
    feeds: Any = [Pieces(f"http://{place}", answer, place) for place, answer in enumerate(answers)]
    data = b"".join(Recorded(feeds, asked).chunks())
    found = ending.find(data)
    assert found is not None
    return data[: found[1]], found[0]["nodetap.completeness"]


@given(AGENTS, st.integers(0, 15))
def test_frames_of_several_hubs_are_those_of_one(
    tmp_path_factory: pytest.TempPathFactory, agents: dict[str, list[tuple[int, bytes, int]]], which: int
) -> None:
    folder = tmp_path_factory.mktemp("hubs")
    first = {name: frames for place, (name, frames) in enumerate(sorted(agents.items())) if which >> place & 1}
    halves = [half for half in (first, {name: agents[name] for name in agents.keys() - first.keys()}) if half]
    data, said = together(*(merged(half) + words("completeness", sorted(half)) for half in halves))
    found = read(folder / "several.pcapng", data)
    expected = read(folder / "one.pcapng", merged(agents))
    assert [time for time, _, _ in found] == [time for time, _, _ in expected]
    assert sorted(found) == sorted(expected)
    assert (said["complete"], said["frames"], said["agents"]) == (True, len(expected), sorted(agents))


@given(st.binary(max_size=200), st.lists(st.integers(0, 255), max_size=8))
def test_any_bytes_are_read(data: bytes, changes: list[int]) -> None:
    whole = bytearray(merged({"a": [(T0, b"frame", 0)]}) + words("completeness", ["a"]))
    for place in changes:
        whole[place * 7 % len(whole)] ^= 1 << place % 8
    for given_in in (data, bytes(whole), data + bytes(whole)):
        try:
            Reader().feed(given_in)
        except HubLost:
            continue


def test_an_interface_says_of_which_agent_and_hub_it_is_and_comments_stay() -> None:
    merge = Merge(["a"], "test")
    merge.remark("", "10.0.0.1 is web-1")
    merge.add("a", *part_of([(T0, b"x", 0)], [["eth0", 1]], T0 + 1, False))
    merge.miss(Gap("a", T0 + 1, T0 + 5, 7, "disk_slow"))
    merge.add("a", *part_of([(T0 + 9, b"y", 0)], [["eth0", 1]], NEVER, True))
    merge.remark("a", "something at the end")
    answer = merge.take()
    one = answer + merge.end() + words("completeness", ["a"])
    two = merged({"a": [(T0 + 3, b"z", 0)]}) + words("completeness", ["a"])
    data, said = together(one, two)
    reader = Reader()
    part, _ = reader.feed(data)
    assert part.time.tolist() == [T0, T0 + 3, T0 + 9]
    assert b"7 frames of a are missing" in data
    assert sorted((each.name, *each.comments) for each in reader.interfaces) == [
        ("a0", "agent a", "hub http://1"), ("eth0", "agent a", "hub http://0"),
    ]  # fmt: skip
    assert {"10.0.0.1 is web-1", "something at the end"} <= set(reader.comments)
    assert said["agents"] == ["a", "a"]


@pytest.mark.parametrize(
    ("asked", "times", "cut"),
    [
        ({"limit": 4}, [1, 2, 3, 4], "frames"),
        ({"bytes": 36 * 3}, [1, 2, 3], "bytes"),
        ({"limit": 9}, [*range(1, 7)], ""),
    ],
)
def test_bounds_hold_over_all_hubs(asked: dict[str, int], times: list[int], cut: str) -> None:
    caps = {f"most_{name.replace('limit', 'frames')}": value for name, value in asked.items()}
    each = [
        merged({name: [(T0 + time, b"x", 0) for time in mine]}, **caps)
        for name, mine in (("a", [1, 3, 5]), ("b", [2, 4, 6]))
    ]
    data, said = together(
        *(each_ + words("completeness", [name]) for each_, name in zip(each, "ab", strict=True)), **asked
    )
    part, _ = Reader().feed(data)
    assert [time - T0 for time in part.time.tolist()] == times
    assert (said["cut"], said["complete"]) == (cut or None, not cut)


def test_what_one_hub_cut_off_is_not_followed_by_later_frames() -> None:
    """A hub had no room for the next frame: a small one of another that is later is not taken for it."""
    one = merged({"a": [(T0 + 1, b"x", 0), (T0 + 2, bytes(100), 0)]}, most_bytes=120) + words(
        "completeness", "a", "bytes"
    )
    two = merged({"b": [(T0 + 1, b"y", 0), (T0 + 9, b"y", 0)]}) + words("completeness", "b")
    data, said = together(one, two, bytes=120)
    assert Reader().feed(data)[0].time.tolist() == [T0 + 1, T0 + 1]
    assert said["cut"] == "bytes"


def test_a_hub_that_breaks_off_costs_its_own_frames() -> None:
    whole = merged({"a": [(T0 + 1, b"x", 0), (T0 + 7, b"x", 0)]})
    other = merged({"b": [(T0 + time, b"y", 0) for time in (2, 8, 9)]}) + words("completeness", ["b"])
    for broken, why in (
        (whole[: whole.rindex(b"x")], "was cut off before its end"),
        (whole + ending.pack({"nodetap.error": {"code": "internal", "detail": "it burns", "status": 500}}), "it burns"),
        (whole[:-4] + bytes(4), "is damaged"),
        (b"<html><body>no capture", "is no capture"),
    ):
        data, said = together(broken, other)
        assert {2, 8, 9} <= {time - T0 for time in Reader().feed(data)[0].time.tolist()}
        ((hub, reason),) = [(each["hub"], each["reason"]) for each in said["missing"]]
        assert (hub, why in reason, said["complete"]) == ("http://0", True, False), reason
        assert b"hub http://0 is missing: " in data
        with pytest.raises(CliError, match="no hub answers"):
            together(broken, broken)


# -- over sockets --------------------------------------------------------------------------------------------------


@contextmanager
def playing(*bodies: Callable[[], Body]) -> Iterator[list[str]]:
    """A hub for each body, which answers whatever is asked with it. Their URLs."""
    with ExitStack() as stack:
        urls = []
        for body in bodies:
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(body))
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.shutdown)
            urls.append(f"http://127.0.0.1:{server.server_address[1]}")
        yield urls


def _handler(body: Callable[[], Body]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-pcapng")
            self.end_headers()
            try:
                for each in () if self.path == "/healthz" else body():
                    if isinstance(each, bytes):
                        self.wfile.write(each)
                    else:
                        each()
            except OSError:
                return  # nobody reads any more

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    return Handler


def nodetap(urls: Iterable[str], *arguments: str) -> int:
    return run([*(word for url in urls for word in ("--hub-url", url)), *arguments])


def test_frames_wait_for_another_hub_without_holding_theirs_up(tmp_path: Path, capfd: Any) -> None:
    """A hub has sent all while older frames of the other are still to come."""
    sent = threading.Event()
    big = merged({"b": [(T0 + time, bytes(60_000), 0) for time in range(100, 600)]}) + words("completeness", ["b"])
    assert len(big) > 2 * AHEAD * (64 << 10)
    late = merged({"a": [(T0 + 1, b"x", 0), (T0 + 700, b"x", 0)]}) + words("completeness", ["a"])
    out = tmp_path / "out.pcapng"
    with playing(lambda: [late[:200], lambda: sent.wait(30), late[200:]], lambda: [big, sent.set]) as urls:
        assert nodetap(urls, "pcap", "--since", "all", "-w", str(out), "--strict") == 0
    assert sent.is_set()
    assert [time - T0 for time, _, _ in read(tmp_path / "copy", out.read_bytes())] == [1, *range(100, 600), 700]
    assert capfd.readouterr().err.splitlines()[-1] == "complete: 502 frames, 2 agents of 2 hubs"


def test_a_hub_that_is_not_there_is_named_and_strict_says_so(tmp_path: Path, capfd: Any) -> None:
    answer = merged({"a": [(T0 + 1, b"x", 0)]}) + words("completeness", ["a"])
    out, gone = tmp_path / "out.pcapng", f"http://127.0.0.1:{free_port()}"
    with playing(lambda: [answer]) as urls:
        assert nodetap([*urls, gone], "pcap", "-w", str(out)) == 0
        said = capfd.readouterr().err.splitlines()[-1]
        assert said.startswith(f"INCOMPLETE: hub {gone} missing (cannot reach the hub: ")
        assert said.endswith(" (1 frame, 1 agent of 1 hub)")
        assert nodetap([*urls, gone], "pcap", "-w", str(out), "--strict") == 4
        out.unlink()
        assert nodetap([gone, f"{gone}/x"], "pcap", "-w", str(out)) == 3
        assert not out.exists()


SECOND = 10**9


def at(name: str, second: int) -> bytes:
    """What a hub says while an agent takes part: all frames before that time went out."""
    return words("progress", [name], reached=format_ns(T0 + second * SECOND))


def begin(name: str, second: int = 0) -> bytes:
    return pcapng.section("t") + pcapng.interface("e", 1, comments=[f"agent {name}"]) + at(name, second)


def frames(*seconds: int) -> bytes:
    return b"".join(pcapng.packet(b"%d" % second, 60, T0 + second * SECOND, 0) for second in seconds)


def test_live_frames_go_out_in_order_and_a_hub_that_goes_is_named(
    tmp_path: Path, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.cli.regions.live.WINDOW", 600 * SECOND)
    there, gone, over = threading.Event(), threading.Event(), threading.Event()

    def steady() -> Body:
        yield begin("a") + frames(1)
        there.wait(30)
        yield frames(3) + at("a", 3)
        gone.wait(30)
        yield frames(5) + words("completeness", ["a"], "seconds")

    def dying() -> Body:
        yield begin("b") + frames(2)
        yield there.set
        yield frames(4) + at("b", 4)
        yield gone.set

    out = tmp_path / "out.pcapng"
    with playing(steady, one_by_one(dying, lambda: [lambda: over.wait(30)])) as urls:
        assert nodetap(urls, "capture", "-w", str(out), "--strict") == 4
        over.set()
        said = capfdbinary.readouterr().err.decode().splitlines()
        assert said[0].startswith("nodetap: capturing from ")
        why = "(the hub's answer was cut off before its end)"
        assert said[-1].startswith(f"INCOMPLETE: hub {urls[1]} missing for ")
        assert said[-1].endswith(f" s {why} (5 frames, 1 agent of 1 hub); ended by --max-seconds")
        assert f"nodetap: hub {urls[1]} missing {why}" in said
    found = [(time - T0) // SECOND for time, _, _ in read(tmp_path / "copy", out.read_bytes())]
    assert found == [1, 2, 3, 4, 5]
    assert f"hub {urls[1]} is missing: {why[1:-1]}; its frames are here up to ".encode() in out.read_bytes()


def one_by_one(*bodies: Callable[[], Body]) -> Callable[[], Body]:
    """A hub that answers each question with the next of these."""
    rest = iter(bodies)
    return lambda: next(rest)()


def test_a_hub_that_was_lost_comes_back_by_itself(tmp_path: Path, capfd: Any) -> None:
    """Three times it goes: in the middle, as it is stopped, and before it says a word. Nothing that it said is lost."""
    back, done = threading.Event(), threading.Event()
    gap = {"agent": "b", "first": "x", "last": "y", "frames": 7, "reason": "agent_away"}

    def steady() -> Body:
        yield begin("a") + frames(1)
        back.wait(30)
        yield frames(9) + at("a", 9)
        done.wait(30)

    def again() -> Body:
        yield pcapng.section("t") + words("progress", ["b"], since=format_ns(T0 + 5 * SECOND))
        yield pcapng.interface("new", 1, comments=["agent c"]) + pcapng.interface("e", 1, comments=["agent b"])
        yield pcapng.packet(b"6", 60, T0 + 6 * SECOND, 0) + pcapng.packet(b"7", 60, T0 + 7 * SECOND, 1)
        yield words("progress", ["b", "c"], since=format_ns(T0 + 5 * SECOND), reached=format_ns(T0 + 8 * SECOND))
        yield back.set
        done.wait(30)

    first = begin("b", 2) + frames(2) + words("progress", ["b"], gaps=[gap], reached=format_ns(T0 + 3 * SECOND))
    stopped = begin("b") + frames(3) + words("completeness", ["b"], "hub_stopped")
    answers = one_by_one(lambda: [first], lambda: [stopped], list, again)
    out = tmp_path / "out.pcapng"
    with playing(steady, answers) as urls:
        assert nodetap(urls, "capture", "-w", str(out), "--strict", "--max-seconds", "60", "--limit", "5") == 4
        done.set()
    said = capfd.readouterr().err.splitlines()
    assert f"nodetap: hub {urls[1]} is back" in said
    assert "nodetap: c takes part" in said
    assert said[-1].startswith(f"INCOMPLETE: hub {urls[1]} was away for ")
    assert said[-1].endswith(" s; 7 frames of b not here (agent_away) (5 frames, 3 agents of 2 hubs); ended by --limit")
    data = out.read_bytes()
    assert sorted((time - T0) // SECOND for time, _, _ in read(tmp_path / "copy", data)) == [1, 2, 3, 6, 7]
    assert f"frames of {urls[1]} are missing from ".encode() in data
    reader = Reader()
    reader.feed(data)
    assert sorted(each.comments[0] for each in reader.interfaces) == ["agent a", "agent b", "agent c"]


def test_nothing_stays_behind_of_a_question_to_a_hub_that_is_frozen() -> None:
    """It takes the connection and says nothing: whoever asks again and again would have a thread more each time."""
    before = threading.enumerate()
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        client = Client(Settings(f"http://127.0.0.1:{frozen.getsockname()[1]}"))
        with client, pytest.raises(HubLost, match="unresponsive"), client.stream("/v1/capture", silence=0.3):
            raise AssertionError("it answered")
        until("its thread has ended", lambda: set(threading.enumerate()) <= set(before))


def test_a_hub_that_refuses_is_not_asked_again(tmp_path: Path, capfd: Any) -> None:
    error = {"code": "internal", "detail": "it burns", "status": 500}
    asked = []

    def failing() -> Body:
        asked.append(1)
        return [begin("b"), ending.pack({"nodetap.error": error})]

    def steady() -> Body:
        yield begin("a")
        for second in range(3, 12):  # longer than any pause before a hub is asked again
            yield lambda: threading.Event().wait(0.1)
            yield frames(second) + at("a", second)
        yield words("completeness", ["a"], "seconds")

    with playing(steady, failing) as urls:
        assert nodetap(urls, "capture", "-w", str(tmp_path / "out.pcapng"), "--strict") == 4
    assert f"hub {urls[1]} missing (the hub failed: it burns" in capfd.readouterr().err
    assert len(asked) == 1


class Turns:
    """A live feed: what comes at each look at it."""

    trouble = None
    head = Head(200, {})

    def __init__(self, url: str, *turns: bytes | None) -> None:
        self.url, self._turns = url, list(turns)

    def here(self) -> list[bytes | None]:
        return [self._turns.pop(0)] if self._turns else []

    def stop(self) -> None:
        """Nothing goes on."""


def never(url: str, asked: Any, pause: float) -> Any:
    raise AssertionError(f"{url} was not lost")


def test_live_frames_wait_as_far_as_another_hub_says_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older frame of a hub that is quiet comes before a newer one that was there first."""
    monkeypatch.setattr("hub.cli.regions.live.WINDOW", 600 * SECOND)
    came = threading.Event()
    came.set()
    feeds: Any = [
        Turns(
            "http://a", begin("a", 5), frames(10) + at("a", 11), at("a", 12), at("a", 13), words("completeness", "a")
        ),
        Turns("http://b", begin("b", 5), at("b", 6), frames(7) + at("b", 11), at("b", 13), words("completeness", "b")),
    ]
    reader, seen = Reader(), []
    for data in Captured(feeds, {}, came, never).chunks():
        seen += [(time - T0) // SECOND for time in reader.feed(data)[0].time.tolist()]
    assert seen == [7, 10]


def test_live_frames_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a hub that says nothing more, nor where they are too many to wait."""
    monkeypatch.setattr("hub.cli.regions.live.WINDOW", 0)
    quiet = Turns("http://b", begin("b", 5), *[b""] * 10, words("completeness", "b"))
    feeds: Any = [Turns("http://a", begin("a", 5), frames(10) + at("a", 10), b"", words("completeness", "a")), quiet]
    came = threading.Event()
    came.set()
    chunks = Captured(feeds, {}, came, never).chunks()
    next(chunk for chunk in chunks if b"10\0\0" in chunk)
    assert quiet._turns, "it was not waited for to its end"


def test_a_live_capture_ends_with_its_last_frame_of_all(tmp_path: Path, capfd: Any) -> None:
    def many(name: str) -> Callable[[], Body]:
        def body() -> Body:
            yield pcapng.section("t") + pcapng.interface("e", 1, comments=[f"agent {name}"])
            for number in range(10**6):
                yield pcapng.packet(name.encode(), 60, T0 + number, 0)
                if number % 100 == 0:
                    yield words("progress", [name])

        return body

    out = tmp_path / "out.pcapng"
    with playing(many("a"), many("b")) as urls:
        assert nodetap(urls, "capture", "-w", str(out), "--limit", "70") == 0
    assert len(read(tmp_path / "copy", out.read_bytes())) == 70
    assert capfd.readouterr().err.splitlines()[-1] == "complete: 70 frames, 2 agents of 2 hubs; ended by --limit"


def test_live_captures_of_no_hub_are_an_error(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.cli.regions.live.GIVE_UP", 0.5)
    out = tmp_path / "out.pcapng"
    nobody = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    assert nodetap(nobody, "capture", "-w", str(out)) == 3
    assert capfd.readouterr().err.count("\n") == 1
    stopped = pcapng.section("t") + words("completeness", ["a"], "hub_stopped")
    with playing(lambda: [stopped], lambda: [stopped]) as urls:
        assert nodetap(urls, "capture", "-w", str(out)) == 3
    assert "the hub was stopped" in capfd.readouterr().err
