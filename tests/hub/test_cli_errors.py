"""What goes wrong for whoever asks, every command in every way: one clear line, the exit code, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from procs import Hub, ending, environment, program
from test_cli_hub import fill, last_word, summed, tcp

from hub.cli.client import explain
from hub.cli.main import run

ALL = ("--since", "all")
COMMANDS = {
    "packets": ["packets"],
    "flows": ["flows"],
    "groups": ["flows", "--by", "ip.src"],
    "calls": ["calls"],
    "follow": ["follow"],
    "map": ["map"],
    "top": ["top", "--once"],
    "pcap": ["pcap", "-w", "none.pcapng"],
}
FORMATS = ("ndjson", "json", "csv", "parquet", "arrow")
PRINTING = [
    ["packets", *ALL],
    ["packets", *ALL, "-o", "ndjson"],
    ["packets", *ALL, "-o", "json"],
    ["packets", *ALL, "-o", "csv"],
    ["packets", *ALL, "--explain"],
    ["flows", *ALL],
    ["flows", *ALL, "--by", "ip.src"],
    ["calls", *ALL],
    ["follow", *ALL, "--limit", "50"],
    ["follow", *ALL, "--limit", "50", "-o", "ndjson"],
    ["map", *ALL],
    ["map", *ALL, "-o", "dot"],
    ["top", "--once"],
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("errors")
    fill(folder, [tcp(1, 600), summed(2), last_word(3, 600)])
    hub = Hub(folder)
    with ending(hub):
        yield hub.ready()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(hub: Hub, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a call that prints nothing but an error, and the error's first line."""
    code = run(["--hub-url", hub.api, *arguments])
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return code, err


# -- questions that cannot be asked --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("text", "column", "near"), [("ip and tcp.prt == 1", 8, "tcp.port"), ("tcp.port ==", 12, ""),
                                 ("tcp.port == x", 13, "")]
)  # fmt: skip
def test_a_wrong_filter(
    hub: Hub, here: Path, capfd: pytest.CaptureFixture[str], command: str, text: str, column: int, near: str
) -> None:
    code, err = refused(hub, capfd, *COMMANDS[command], text)
    said, shown, caret, *more = err.splitlines()
    assert code == 2
    assert said.startswith("nodetap: the filter is wrong: ")
    assert (shown, caret) == (f"  {text}", " " * (column + 1) + "^")
    assert more == ([f"  did you mean {near}?"] if near else [])
    assert not list(here.iterdir())


def test_a_long_filter_is_shown_where_it_is_wrong(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = refused(hub, capfd, "packets", "tcp and " * 100 + "nope and " + "tcp and " * 100 + "tcp")
    said, shown, caret, *_ = err.splitlines()
    assert code == 2
    assert "'nope'" in said
    assert shown[caret.index("^") :].startswith("nope")
    assert len(shown) < 400


@pytest.mark.parametrize(
    "arguments", [["packets", "\udcff"], ["packets", "--agent", "\udcff"], ["follow", "--cursor", "\udcff"],
                  ["agents", "forget", "\udcff"]],
)  # fmt: skip
def test_what_is_no_text(hub: Hub, capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, err = refused(hub, capfd, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "UTF-8" in err


TIMES = (
    "yesterday",
    "5x",
    "2026-13-01",
    "2026-01-31 25:00",
    "",
    "-5m",
    "1e9",
    "99:99",
    "9" * 30 + "d",
    "12345-01-01",
    "9999-01-01",
    "0001-01-01",
)


@pytest.mark.parametrize("text", TIMES)
def test_a_wrong_time(hub: Hub, capfd: pytest.CaptureFixture[str], text: str) -> None:
    for option in ("--since", "--until"):
        code, err = refused(hub, capfd, "packets", f"{option}={text}")
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith("nodetap")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("packets", "top")])
def test_a_wrong_time_whatever_is_asked(hub: Hub, here: Path, capfd: pytest.CaptureFixture[str], command: str) -> None:
    for option in ("--since",) if command == "follow" else ("--since", "--until"):
        for text in ("yesterday", ""):
            code, err = refused(hub, capfd, *COMMANDS[command], f"{option}={text}")
            assert (code, err.count("\n")) == (2, 1), err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("command", "option"),
    [("packets", "--fields"), ("flows", "--fields"), ("calls", "--fields"), ("follow", "--fields"), ("flows", "--by"),
     ("calls", "--by"), ("top", "--by"), ("packets", "--sort"), ("flows", "--sort"), ("groups", "--sort"),
     ("top", "--sort")],
)  # fmt: skip
def test_a_wrong_field(hub: Hub, capfd: pytest.CaptureFixture[str], command: str, option: str) -> None:
    code, err = refused(hub, capfd, *COMMANDS[command], option, "ip.srcc")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean ip.src?" in err


@pytest.mark.parametrize(("command", "field"), [("flows", "flow.bytes"), ("calls", "call.latency")])
def test_so_many_groups_of_nothing(
    hub: Hub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, field: str
) -> None:
    code, err = refused(hub, capfd, command, *ALL, "--top", "3")
    rows = f"--sort {field}:desc --limit 3"
    assert (code, err) == (2, f"nodetap: --top is for groups: name them with --by, or write {rows} for rows\n")
    assert run(["--hub-url", hub.api, command, *ALL, *rows.split(), "-o", "csv"]) == 0
    monkeypatch.setenv("NODETAP_TOP", "3")  # it is for `top`, `map` and groups: rows are asked for as ever
    assert run(["--hub-url", hub.api, command, *ALL, "-o", "csv"]) == 0


@pytest.mark.parametrize("cursor", ["abc", "", "eyJ4IjpbInBhY2tldHMiLDEsbnVsbF19", "A" * 5000, "é"])
def test_a_wrong_cursor(hub: Hub, capfd: pytest.CaptureFixture[str], cursor: str) -> None:
    code, err = refused(hub, capfd, "follow", "--cursor", cursor)
    assert (code, err.count("\n")) == (2, 1)
    assert "cursor" in err


# -- whoever else answers -----------------------------------------------------------------------------------------

ELSEWHERE = {
    "a page": ("text/html", b"<html></html>"),
    "a list": ("application/json", b"[]"),
    "nothing": ("application/json", b"{}"),
    "something": ("application/json", b'{"status": "ok"}'),
    "no JSON": ("application/json", b"ok"),
}


@pytest.fixture(params=ELSEWHERE)
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that is no hub, and says 200 to everything."""
    kind, body = ELSEWHERE[request.param]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "command",
    [*COMMANDS, "agents", "ledger", "doctor", "fields", "configure", "packets --explain", "packets -o csv -w x.csv",
     "capture -w x.pcapng"],
)  # fmt: skip
def test_somebody_who_is_no_hub(stranger: str, here: Path, capfd: pytest.CaptureFixture[str], command: str) -> None:
    code = run(["--hub-url", stranger, *COMMANDS.get(command, command.split()), *_GIVE_UP.get(command, ())])
    out, err = capfd.readouterr()
    assert (code, out, err.count("\n")) == (3, "", 1), err
    assert not list(here.iterdir())


_GIVE_UP = {"follow": ("--give-up", "0.1")}


def test_an_agent_that_is_connected_is_not_forgotten() -> None:
    told = {"status": 409, "code": "agent_connected", "detail": "a is connected: stop it first, then forget it"}
    error = explain(told, "", "http://hub")
    assert (str(error), error.code) == (told["detail"], 1)


# -- files that cannot be written ----------------------------------------------------------------------------------

WRITING = [["packets", *ALL], ["flows", *ALL], ["flows", *ALL, "--by", "ip.src"], ["calls", *ALL]]


@pytest.mark.parametrize(
    ("command", "output"), [*((WRITING[0], output) for output in FORMATS), *((each, "csv") for each in WRITING[1:])]
)
def test_a_place_that_cannot_be_written_to(
    hub: Hub, here: Path, capfd: pytest.CaptureFixture[str], command: list[str], output: str
) -> None:
    for place in (".", "nosuch/file", "/proc/file"):
        code, err = refused(hub, capfd, *command, "-o", output, "-w", place)
        assert (code, err.count("\n")) == (1, 1), err
        assert err.startswith(f"nodetap: cannot write {place}: ")
    assert not list(here.iterdir())


@pytest.mark.parametrize("place", [".", "nosuch/file.pcapng", "/proc/file"])
def test_a_place_that_frames_cannot_be_written_to(
    hub: Hub, here: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    code, err = refused(hub, capfd, "pcap", *ALL, "-w", place)
    assert (code, err.count("\n")) == (1, 1), err
    assert not list(here.iterdir())


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no rights to mount a disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("output", FORMATS)
def test_a_disk_that_becomes_full(hub: Hub, full: Path, capfd: pytest.CaptureFixture[str], output: str) -> None:
    before = full / "answer"
    before.write_bytes(b"what was there before")
    code, err = refused(hub, capfd, "packets", *ALL, "--limit", "0", "-o", output, "-w", str(before))
    assert (code, err.count("\n")) == (1, 1), err
    assert "No space left on device" in err
    assert [path.name for path in full.iterdir()] == ["answer"]
    assert before.read_bytes() == b"what was there before"


# -- readers that go ------------------------------------------------------------------------------------------------


def printing(hub: Hub, arguments: list[str], stdout: int | None, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """The exit code and what stands on stderr."""
    command = [*prefix, *program("hub.cli.main", "--hub-url", hub.api, *arguments)]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment(), timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_full_device(hub: Hub, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as device:
        code, err = printing(hub, arguments, device.fileno())
    assert code == 1, err
    assert err.count("\n") == 1
    assert err.startswith("nodetap: cannot write: No space left on device")


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_pipe_that_is_closed(hub: Hub, arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        code, err = printing(hub, arguments, write)
    finally:
        os.close(write)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("arguments", PRINTING[:2] + PRINTING[8:10], ids=" ".join)
def test_no_stdout_at_all(hub: Hub, arguments: list[str]) -> None:
    code, err = printing(hub, arguments, None, ("sh", "-c", 'exec "$@" >&-', "sh"))
    assert code == 0, err
    assert "Traceback" not in err


def test_a_head_that_has_enough(hub: Hub) -> None:
    """A pipe that is closed amid the answer."""
    command = program("hub.cli.main", "--hub-url", hub.api, "packets", *ALL, "--limit", "0", "-o", "ndjson")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    with contextlib.closing(process.stdout), contextlib.closing(process.stderr):  # type: ignore[type-var]
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
