"""`nodetap up` with the real hub and agent: a capture stored, a live capture drained, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from numbered import write_pcap
from procs import Hub, environment, free_port, program, status_of, until


def up(folder: Path, *arguments: str) -> tuple[list[str], str]:
    """The command line of `up` on free ports with its state in `folder`, and the URL of its API."""
    api = f"127.0.0.1:{free_port()}"
    addresses = ("--agents", f"127.0.0.1:{free_port()}", "--api", api)
    return program("hub.cli.main", "up", *addresses, "--store", str(folder / "store"), *arguments), f"http://{api}"


def test_read_ends_once_all_is_stored(tmp_path: Path) -> None:
    command, api = up(tmp_path, "--read", str(write_pcap(tmp_path / "a.pcap", 5000)))
    env = environment({"XDG_STATE_HOME": str(tmp_path)})
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (done.returncode, status_of(f"{api}/healthz")) == (0, 0), done.stderr
    assert "5,000" in done.stdout
    assert done.stdout.splitlines()[-1] == "balanced, complete"
    hub = Hub(tmp_path)
    try:
        assert len(hub.ready().rows()) == 5000
    finally:
        hub.kill()


def test_a_file_that_is_no_capture_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.pcap").write_text("no capture")
    command, _ = up(tmp_path, "--read", str(tmp_path / "b.pcap"))
    env = environment({"XDG_STATE_HOME": str(tmp_path)})
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.returncode != 0
    assert "b.pcap" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.parametrize("ignored", [False, True], ids=["in the foreground", "in the background of a shell"])
def test_ctrl_c_drains_and_prints_the_ledger(tmp_path: Path, ignored: bool) -> None:
    command, api = up(tmp_path, "--interface", "lo")
    before = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before,
        env=environment({"XDG_STATE_HOME": str(tmp_path)}),
    )  # fmt: skip
    try:
        until("the agent streams", lambda: _streams(api), 60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.splitlines()[-1].startswith("balanced")
        assert status_of(f"{api}/healthz") == 0
    finally:
        process.kill()
        process.wait(10)


def _streams(api: str) -> bool:
    command = program("hub.cli.main", "--hub-url", api, "agents", "-o", "ndjson")
    return (
        '"streaming"' in subprocess.run(command, capture_output=True, text=True, env=environment(), check=False).stdout
    )
