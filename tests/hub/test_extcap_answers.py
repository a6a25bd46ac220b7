"""What `nodetap-extcap` answers to Wireshark, and the launcher that is put where Wireshark looks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.extcap import launcher, sentences
from protocol.filter.grammar import parse
from protocol.filter.predicate import Predicate
from tests.procs import ROOT, environment, program

NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=30)


def ask(*words: str, hub: str = "http://127.0.0.1:1") -> subprocess.CompletedProcess[str]:
    """`nodetap-extcap WORDS`."""
    return subprocess.run(
        program("hub.extcap.main", *words), capture_output=True, text=True, timeout=60,
        env=environment({"NODETAP_HUB_URL": hub}),
    )  # fmt: skip


@given(st.text(max_size=40))
def test_a_sentence_is_one_line_whatever_its_values(text: str) -> None:
    assert re.fullmatch(r"word \{one=[^{}\n]*\}\{two=2\}", sentences.sentence("word", one=text, two=2))


@given(NAMES)
def test_every_agent_has_an_interface_that_means_it(name: str) -> None:
    agent = {"agent": name, "connection": "c1", "source": "live"}
    line = sentences.interfaces([agent])[-1]
    value = re.match(r"interface \{value=nodetap-([^{}/ ]+)\}\{display=nodetap: ", line)
    assert value is not None
    assert unquote(value[1]) == name
    node = parse(sentences.filter_of(f"nodetap-{value[1]}", "tcp", None) or "", "packets")
    assert node is not None
    Predicate(node, "packets")


def test_only_connected_agents_are_listed() -> None:
    agents = [
        {"agent": "gone", "connection": None, "source": "live"},
        {"agent": "file/replay-1", "connection": "c1", "source": "replay"},
        {"agent": "node/w1", "connection": "c2", "source": "live"},
    ]
    assert [line.partition("}")[0] for line in sentences.interfaces(agents)] == [
        "extcap {version=0.1.0", "interface {value=nodetap", "interface {value=nodetap-node%2Fw1",
    ]  # fmt: skip


@pytest.mark.parametrize(("interface", "texts", "filter_"), [
    ("nodetap", (), None),
    ("nodetap", ("", None, " "), None),
    ("nodetap", ("tcp", None), "(tcp)"),
    ("nodetap-a", ("tcp or udp", "ip"), 'nodetap.agent == "a" and (tcp or udp) and (ip)'),
    ("nodetap-a%22b", (), 'nodetap.agent == "a\\"b"'),
])  # fmt: skip
def test_interface_and_filters_are_one_filter(interface: str, texts: tuple[str], filter_: str | None) -> None:
    assert sentences.filter_of(interface, *texts) == filter_


def test_agents_of_one_name_are_one_interface() -> None:
    agents = [{"agent": "a", "connection": "c1", "hub": hub} for hub in ("http://1", "http://2")]
    assert len(sentences.interfaces(agents)) == 3


@pytest.mark.parametrize(("hub", "said"), [
    ("http://127.0.0.1:1", "cannot reach the hub"),
    ("http://127.0.0.1:1, http://127.0.0.2:1", "no hub answers: http://127.0.0.1:1: "),
    ("http://127.0.0.1:1,", "the hub's address '' is no URL"),
])  # fmt: skip
def test_without_a_hub_there_is_the_interface_for_all_and_a_line_on_stderr(hub: str, said: str) -> None:
    done = ask("--extcap-interfaces", "--extcap-version=4.0", hub=hub)
    assert done.returncode == 0
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["extcap", "interface"]
    assert done.stderr.startswith(f"nodetap-extcap: {said}")
    assert done.stderr.count("\n") == 1


def test_options_have_their_defaults_from_the_environment() -> None:
    done = ask("--extcap-config", "--extcap-interface", "nodetap", hub="http://hub:1")
    lines = done.stdout.splitlines()
    assert "{call=--hub-url}{display=Hub}{type=string}{default=http://hub:1}" in lines[0]
    assert [line.partition("{call=")[2].partition("}")[0] for line in lines] == [
        "--hub-url", "--token-file", "--tls-ca", "--filter", "--max-bytes",
    ]  # fmt: skip
    assert ask("--extcap-dlts", "--extcap-interface", "nodetap").stdout.startswith("dlt {number=147}")


@pytest.mark.parametrize(("words", "said"), [
    ((), "Wireshark calls this program"),
    (("--capture", "--extcap-interface", "nodetap"), "--capture needs --fifo"),
    (("--capture", "--extcap-interface", "eth0", "--fifo", "/dev/null"), "no interface 'eth0'"),
    (("--capture", "--extcap-interface", "nodetap", "--fifo", "/no/such/pipe"), "cannot write /no/such/pipe"),
    (("--capture", "--extcap-interface", "nodetap", "--fifo", "/dev/null"), "cannot reach the hub"),
    (("--capture", "--token-file", "/no/file", "--fifo", "/dev/null"), "cannot read the token file"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(words: tuple[str, ...], said: str) -> None:
    done = ask(*words)
    assert done.returncode > 0
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_launcher_starts_the_program_with_its_settings(tmp_path: Path) -> None:
    path = launcher.install(tmp_path / "a" / "b", {"NODETAP_HUB_URL": "http://it's here:1"})
    assert path == tmp_path / "a" / "b" / "nodetap-extcap"
    assert [each.name for each in path.parent.iterdir()] == ["nodetap-extcap"]
    said = subprocess.run(
        [path, "--extcap-config", "--extcap-interface", "nodetap"], capture_output=True, text=True, check=True,
        env=environment(), cwd=tmp_path,
    ).stdout  # fmt: skip
    assert "{default=http://it's here:1}" in said
    env = environment({"NODETAP_HUB_URL": "http://other:1"})
    words = [str(path), "--extcap-config"]
    assert "{default=http://other:1}" in subprocess.run(words, capture_output=True, text=True, env=env).stdout
    assert launcher.uninstall(path.parent) == path
    assert launcher.uninstall(path.parent) is None


@pytest.mark.parametrize(("said", "place"), [
    ("Personal configuration:\t/c\nPersonal Extcap path:\t/p\nGlobal Extcap path:\t/g\n", Path("/p")),
    ("Personal configuration:\t/c\nExtcap path:\t/g\n", Path("/c/extcap")),
    ("", Path("/home/me/.local/lib/wireshark/extcap")),
])  # fmt: skip
def test_the_folder_is_where_tshark_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, place: Path
) -> None:
    (tmp_path / "folders").write_text(said)
    tshark = tmp_path / "tshark"
    tshark.write_text(f"#!/bin/sh\ncat {tmp_path}/folders\n")
    tshark.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", "/home/me")
    assert launcher.folder() == place


def test_install_and_uninstall_as_commands(tmp_path: Path) -> None:
    def nodetap(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from hub.cli.main import main; main()", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=60)

    folder = tmp_path / "extcap"
    done = nodetap("--hub-url", "http://h:1", "--token-file", "t", "extcap", "install", "--dir", str(folder))
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, str(folder / "nodetap-extcap"))
    text = (folder / "nodetap-extcap").read_text()
    assert "NODETAP_HUB_URL=${NODETAP_HUB_URL:-http://h:1}" in text
    assert f"NODETAP_TOKEN_FILE=${{NODETAP_TOKEN_FILE:-{tmp_path / 't'}}}" in text
    several = ("--hub-url", "http://h:1", "--hub-url", "http://i:1", "--token-file", "t", "--token-file", "u")
    assert nodetap(*several, "extcap", "install", "--dir", str(folder)).returncode == 0
    text = (folder / "nodetap-extcap").read_text()
    assert "NODETAP_HUB_URL=${NODETAP_HUB_URL:-http://h:1,http://i:1}" in text
    assert f"NODETAP_TOKEN_FILE=${{NODETAP_TOKEN_FILE:-{tmp_path / 't'},{tmp_path / 'u'}}}" in text
    assert "is removed" in nodetap("extcap", "uninstall", "--dir", str(folder)).stdout
    assert "there is none" in nodetap("extcap", "uninstall", "--dir", str(folder)).stdout
    wrong = nodetap("extcap", "install", "--dir", str(ROOT / "README.md" / "x"))
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
