"""Tokens with roles and limits, as people at the command line meet them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from procs import Hub, ending, until

from hub.cli.client import Head, busy, explain
from hub.cli.completeness import sentence
from hub.cli.errors import UNREACHABLE, USAGE, HubLost


def test_what_a_token_may_not_is_one_line(tmp_path: Path) -> None:
    file, mine = tmp_path / "tokens", tmp_path / "mine"
    file.write_text("admin s3cret-admin root\nread s3cret-read ana\nagent s3cret-agent nodes\n")
    file.chmod(0o644)
    hub = Hub(tmp_path, "--token-file", str(file))
    with ending(hub):
        hub.ready()
        mine.write_text("s3cret-read")
        assert hub.cli("--token-file", str(mine), "agents").returncode == 0
        mine.write_text("s3cret-other")
        done = hub.cli("--token-file", str(mine), "agents", check=False)
        assert done.stderr.endswith("wants a token: give it with --token-file (the one given is none of this hub's)\n")
        assert hub.cli("agents", check=False).stderr.endswith("--token-file (none was given)\n")
        mine.write_text("s3cret-read")
        for words, role in ((("pcap", "-w", "-"), "capture"), (("agents", "forget", "web-1"), "admin")):
            done = hub.cli("--token-file", str(mine), *words, check=False)
            assert (done.returncode, done.stderr.count("\n")) == (3, 1)
            assert f"this takes a token with the role {role}, and ana has the role read" in done.stderr
        done = hub.cli("--token-file", str(file), "agents", check=False)
        assert done.returncode == 2
        assert "put your token alone into a file" in done.stderr
        assert any("chmod 600" in line["event"] for line in hub.events)
        assert "s3cret" not in hub.text

        file.write_text("read s3cret-new ana\n")  # the old one is no longer good, without a restart
        until("the new tokens hold", lambda: hub.cli("--token-file", str(mine), "agents", check=False).returncode == 3)
        mine.write_text("s3cret-new")
        assert hub.cli("--token-file", str(mine), "agents").returncode == 0
        file.write_text("raed s3cret-newer ana\nadmin x")
        until("the log says what is wrong", lambda: "line 1 begins with no role" in hub.text)
        assert hub.cli("--token-file", str(mine), "agents").returncode == 0


def test_a_hub_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    hub = Hub(tmp_path, "--client-rate", "1")  # and ten at once
    with ending(hub):
        hub.ready()
        with httpx.Client() as client:
            until("the hub refuses", lambda: client.get(f"{hub.api}/v1/fields").status_code == 429, pause=0.0)
        assert hub.cli("agents").returncode == 0


def test_a_cut_answer_is_said_to_be_one() -> None:
    said = sentence({"agents": ["web-1"], "complete": False, "cut": "rows"})
    assert said == "INCOMPLETE: cut: this hub sends no more rows in one answer (1 agent)"


@pytest.mark.parametrize(
    ("after", "code", "seconds"), [("3", "busy", 3), ("1", "too_many", 1), ("2", "store_error", 0), ("", "busy", 0)]
)
def test_only_a_busy_hub_is_asked_again(after: str, code: str, seconds: int) -> None:
    headers = {"retry-after": after} if after else {}
    assert busy(Head(503, headers), f'{{"code": "{code}"}}'.encode()) == seconds


def test_refusals_have_the_exit_codes_of_what_they_mean() -> None:
    problems = [(403, "not_allowed", UNREACHABLE), (409, "contradiction", USAGE), (409, "bad_cursor", USAGE)]
    for status, code, exit_code in problems:
        assert explain({"status": status, "code": code, "detail": "x"}, "", "http://hub").code == exit_code
    assert isinstance(explain({"status": 429, "code": "too_many", "detail": "x"}, "", "http://hub"), HubLost)
