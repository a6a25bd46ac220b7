"""HTTP/1: what a segment says, against tshark on the corpus, and that nothing raises or leaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import claims, summaries, tshark_columns

from agent.l7 import Conn, Summary
from agent.l7.http1 import PARSER

FILES = (
    "http-100-continue-chunked.pcap",
    "http-pipelined-one-segment.pcap",
    "tcp-retransmissions-http.pcap",
    "mixed-web-4600.pcap",
    "ipv6-exthdr-atomic-frag-http.pcap",
)
COLUMNS = {
    "http.request.method": "http_method",
    "http.host": "http_host",
    "http.request.uri": "http_uri",
    "http.response.code": "http_status",
    "http.user_agent": "http_user_agent",
    "http.content_type": "http_content_type",
}
REQUEST = (
    b"POST /a/b?token=1 HTTP/1.1\r\nHost: a.example\r\nUser-Agent: t/1\r\n"
    b"Cookie: secret\r\nContent-Length: 3\r\n\r\nxyz"
)
RESPONSE = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 2\r\n\r\nno"


def feed(payload: bytes, sport: int = 40000, dport: int = 40001) -> Summary | None:
    return PARSER.feed(payload, 0, sport, dport, Conn())


def test_a_request() -> None:
    said = feed(REQUEST)
    assert said is not None
    assert said.l7 == "HTTP"
    assert said.info == "POST /a/b?token=1 HTTP/1.1"
    assert said.fields == {
        "http_method": ["POST"],
        "http_uri": ["/a/b?token=1"],
        "http_host": ["a.example"],
        "http_user_agent": ["t/1"],
    }
    assert [(t.request, t.operation) for t in said.turns] == [(True, "POST /a/b")]


def test_a_response() -> None:
    said = feed(RESPONSE)
    assert said is not None
    assert said.info == "HTTP/1.1 404 Not Found  (text/html)"
    assert said.fields == {"http_status": [404], "http_content_type": ["text/html; charset=utf-8"]}
    assert [(t.request, t.status, t.error) for t in said.turns] == [(False, "404", True)]


def test_messages_one_behind_another_with_and_without_bodies() -> None:
    said = feed(REQUEST + REQUEST.replace(b"POST", b"PUT") + b"GET / HTTP/1.0\r\n\r\n")
    assert said is not None
    assert said.fields["http_method"] == ["POST", "PUT", "GET"]
    said = feed(b"HTTP/1.1 100 Continue\r\n\r\n" + RESPONSE + b"HTTP/1.1 304 Not Modified\r\n\r\n" + RESPONSE)
    assert said is not None
    assert said.fields["http_status"] == [100, 404, 304, 404]
    assert [t.status for t in said.turns] == ["404", "304", "404"]
    said = feed(REQUEST + b"\r\n" + REQUEST)
    assert said is not None
    assert said.fields["http_method"] == ["POST", "POST"]


@pytest.mark.parametrize(
    "payload",
    [
        b"GET tel:1 SIP/2.0\r\nVia: x\r\n\r\n",
        b"OPTIONS rtsp://a/ RTSP/1.0\r\n\r\n",
        b"GET some key\r\n",
        b"GET /no-version\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1\r\n",
        b"HTTP/1.1 2x0 OK\r\n",
        b"POSTAL / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
    ],
)
def test_what_is_not_http_says_nothing(payload: bytes) -> None:
    assert feed(payload) is None


def test_a_body_that_looks_like_headers_is_not_read() -> None:
    said = feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET / HTTP/1.1\r\nHost: in.body\r\n\r\n")
    assert said is not None
    assert said.fields == {"http_method": ["POST"], "http_uri": ["/"]}


def test_headers_that_are_cut_are_read_as_far_as_they_go() -> None:
    said = feed(b"GET /long HTTP/1.1\r\nHost: a.example\r\nUser-Agent: tes")
    assert said is not None
    assert said.fields["http_user_agent"] == ["tes"]
    assert feed(b"GET /a-target-that-goes-on-in-the-next-segm") is not None


def test_a_header_without_a_value_is_there_and_empty() -> None:
    """As `tshark -Y 'http.host == ""'` finds it."""
    said = feed(b"GET / HTTP/1.1\r\nHost:\r\nUser-Agent: \r\n\r\n")
    assert said is not None
    assert (said.fields["http_host"], said.fields["http_user_agent"]) == ([""], [""])
    assert "http_content_type" not in said.fields


def test_the_probe_takes_beginnings_on_any_port() -> None:
    assert claims(PARSER, REQUEST)
    assert claims(PARSER, RESPONSE)
    assert claims(PARSER, b"M-SEARCH * HTTP/1.1\r\n")
    for other in (b"GETTING", b"\x16\x03\x01\x02\x00\x01", b"*1\r\n$4\r\nPING", b"HTML/1.1 ", b"GET", bytes(20)):
        assert not claims(PARSER, other)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"GET / HTTP/1.1\r\n" + tail))
def test_whatever_comes_never_raises(payload: bytes) -> None:
    feed(payload, dport=80)


@given(st.sampled_from([REQUEST, RESPONSE, REQUEST + RESPONSE]), st.data())
def test_what_is_cut_or_changed_never_raises_and_never_leaks(whole: bytes, data: st.DataObject) -> None:
    payload = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    said = feed(bytes(payload))
    assert said is None or "secret" not in repr(said)
    for _ in range(data.draw(st.integers(0, 4))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    feed(bytes(payload))


@pytest.mark.parametrize("name", FILES)
def test_the_corpus_says_what_tshark_says(corpus: Path, tshark: str, name: str) -> None:
    ours = summaries(PARSER, corpus / name)
    prefs = ["-o", "http.desegment_headers:FALSE", "-o", "http.desegment_body:FALSE", "-o", "http.dechunk_body:FALSE"]
    found = 0
    columns = [*COLUMNS, "tcp.analysis.retransmission"]
    for frame, row in enumerate(tshark_columns(tshark, corpus / name, columns, *prefs), 1):
        if row["tcp.analysis.retransmission"]:
            continue  # tshark opens some of them, we all
        said = ours[frame].fields if frame in ours else {}
        for field, column in COLUMNS.items():
            values = [str(v) for v in said.get(column, []) if v != ""]  # type: ignore[union-attr]
            assert values == row[field], (frame, field)  # in columns tshark shows no empty one
            found += len(row[field])
    assert found
