"""Flags become words of the filter language, each of which the hub reads."""

from __future__ import annotations

from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.cli.calls import calls
from hub.cli.capture import capture
from hub.cli.errors import USAGE, CliError
from hub.cli.flags import FLAGS, combined, has
from hub.cli.pcap import pcap
from hub.cli.rows import flows, packets
from protocol.filter.errors import FilterError
from protocol.filter.grammar import parse

TABLES = ("packets", "flows", "calls")
ANY = {
    "ip": st.one_of(st.ip_addresses().map(str), st.sampled_from(["10.0.0.7/8", "2001:db8::/32", "0.0.0.0/0"])),
    "port": st.one_of(st.integers(0, 65535).map(str), st.just("8000-8080"), st.just("7-7")),
    "agent": st.text(min_size=1, max_size=20),
    **dict.fromkeys(("l7", "pod", "namespace", "workload", "service"), st.text(min_size=1, max_size=20)),
}


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        ([], {}, None),
        (["tcp", "or", "udp"], {}, "tcp or udp"),
        ([], {"ip": ("10.0.0.1",)}, "ip.addr == 10.0.0.1"),
        ([], {"ip": ("10.1.2.3/8",)}, "ip.addr == 10.0.0.0/8"),
        ([], {"ip": ("10.0.0.1", "::1")}, "(ip.addr == 10.0.0.1 or ipv6.addr == ::1)"),
        ([], {"port": ("53",)}, "(tcp.port == 53 or udp.port == 53 or sctp.port == 53)"),
        ([], {"agent": ('n"1',)}, r'nodetap.agent == "n\"1"'),
        ([], {"agent": ("a", "b")}, 'nodetap.agent in {"a", "b"}'),
        ([], {"l7": ("HTTP",)}, 'lower(nodetap.l7) == "http"'),
        ([], {"pod": ("web-1",)}, '(k8s.src.pod == "web-1" or k8s.dst.pod == "web-1")'),
        (["tcp", "or", "udp"], {"ip": ("10.0.0.1",)}, "(tcp or udp) and ip.addr == 10.0.0.1"),
        (["tcp"], {"not": True}, "not (tcp)"),
        (["tcp"], {"ip": ("10.0.0.1",), "not": True}, "not ((tcp) and ip.addr == 10.0.0.1)"),
    ],
)
def test_what_flags_say(words: list[str], given: dict[str, Any], expected: str | None) -> None:
    assert combined(words, given, "packets") == expected
    assert expected is None or parse(expected, "packets") is not None


@pytest.mark.parametrize("text", ["tcp) or (udp", "tcp)", "(tcp", "tcp) or ip.src == 10.0.0.1 or (udp"])
def test_flags_do_not_make_a_wrong_filter_right(text: str) -> None:
    for flags in ({"ip": ("10.0.0.1",)}, {"not": True}, {"port": ("53",), "not": True}):
        with pytest.raises(FilterError):
            parse(str(combined([text], flags, "packets")), "packets")


def test_brackets_in_quotes_are_none() -> None:
    for text in (
        'http.host == ")"',
        r'http.host matches "\("',
        r'http.host == "\")"',
        "http.host == '('",
        r'http.host ~ r"\("',
    ):
        assert combined([text], {"ip": ("10.0.0.1",)}, "packets") == f"({text}) and ip.addr == 10.0.0.1"
        assert parse(f"({text})", "packets") is not None


def test_a_range_of_ports() -> None:
    text = combined([], {"port": ("80", "8000-8080")}, "flows")
    assert text is not None
    assert text.startswith("(tcp.port in {80, 8000..8080} or ")


@given(st.data(), st.sampled_from(TABLES), st.booleans())
def test_the_hub_reads_whatever_flags_make(data: st.DataObject, table: str, negated: bool) -> None:
    mine = [flag.name.lstrip("-") for flag in FLAGS if has(table, flag)]
    values = {name: data.draw(st.lists(ANY[name], max_size=3)) for name in mine}
    text = combined(["tcp", "or", "udp"], values | {"not": negated}, table)
    assert text is not None
    assert parse(text, table) is not None


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"ip": ("10.0.0",)}, "--ip takes"),
        ({"ip": ("10.0.0.1/40",)}, "--ip takes"),
        ({"port": ("https",)}, "--port takes"),
        ({"port": ("70000",)}, "--port takes"),
        ({"port": ("90-80",)}, "--port takes"),
        ({"port": ("-1",)}, "--port takes"),
        ({"not": True}, "--not needs"),
        ({"l7": ("dns",)}, "flows have no --l7"),
    ],
)
def test_what_a_flag_cannot_take_is_one_line(given: dict[str, Any], word: str) -> None:
    with pytest.raises(CliError, match=word) as caught:
        combined([], given, "flows")
    assert caught.value.code == USAGE
    assert "\n" not in str(caught.value)


def test_a_command_has_the_flags_of_its_fields() -> None:
    def names(command: click.Command) -> set[str]:
        return {name for parameter in command.params for name in parameter.opts}

    assert {"--ip", "--port", "--agent", "--not"} <= names(flows)
    assert "--l7" not in names(flows)
    assert "--l7" in names(packets) & names(calls)
    assert {"--pod", "--namespace", "--workload", "--service"} <= names(packets) & names(flows) & names(calls)


def test_the_agents_words_in_the_environment_are_no_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODETAP_L7", "fast")
    assert packets.make_context("packets", []).params["l7"] == ()
    assert packets.make_context("packets", ["--l7", "fast"]).params["l7"] == ("fast",)
    monkeypatch.setenv("NODETAP_L7", "dns, http")
    assert packets.make_context("packets", []).params["l7"] == ("dns", "http")


@pytest.mark.parametrize("command", [pcap, capture])
def test_raw_frames_have_all_but_the_names_that_the_hub_alone_knows(command: click.Command) -> None:
    mine = {name for param in command.params for name in param.opts}
    assert mine >= {"--ip", "--port", "--agent", "--l7", "--not"}
    assert not mine & {"--pod", "--namespace", "--workload", "--service"}
