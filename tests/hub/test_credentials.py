"""Token and certificate that are renewed while a hub runs: new connections get the new ones, open ones stay."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import click
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.credentials import Credentials, not_after
from tests.procs import Agent, Hub, ending, until

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def write_pair(folder: Path, ends: dt.datetime, name: str = "localhost") -> tuple[str, str]:
    """A self-signed certificate and its key as files of `folder`, each there whole or not at all."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(NOW, ends) - dt.timedelta(days=1))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    texts = {
        "tls.crt": certificate.public_bytes(serialization.Encoding.PEM),
        "tls.key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    for file, text in texts.items():
        replace(folder / file, text)
    return str(folder / "tls.crt"), str(folder / "tls.key")


def replace(path: Path, text: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(text)
    os.replace(new, path)


@settings(max_examples=25, deadline=None)
@given(ends=st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2100, 1, 1)))
def test_the_end_of_a_certificate_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, ends: dt.datetime
) -> None:
    end = ends.replace(microsecond=0, tzinfo=dt.UTC)  # both encodings: up to 2049 and from 2050 on
    cert, _ = write_pair(tmp_path_factory.mktemp("pair"), end)
    assert not_after(Path(cert).read_text()) == end.timestamp()


def test_the_log_says_that_a_certificate_ends_and_that_it_has(tmp_path: Path) -> None:
    mine = Credentials(None, *write_pair(tmp_path, NOW + dt.timedelta(days=20)))
    said = [mine.ending((NOW + dt.timedelta(days=days)).timestamp()) for days in (0, 7, 8, 21)]
    assert said[0] == ""
    assert said[1] == said[2]  # the same, as it is said once
    assert "ends at 2026-11-21 00:00Z" in said[1]
    assert "has ended at 2026-11-21 00:00Z" in said[3]
    assert Credentials(None, None, None).ending(NOW.timestamp()) == ""


def test_what_cannot_be_used_leaves_what_could(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, NOW)
    token = tmp_path / "token"
    token.write_text("first\n")
    credentials = Credentials(str(token), cert, key)
    assert credentials.look() == ""

    (other := tmp_path / "other").mkdir()
    stranger = Path(write_pair(other, NOW)[1]).read_bytes()
    good = Path(key).read_bytes()
    replace(Path(key), stranger)
    token.write_text("second")
    assert credentials.look().startswith("the old ones stay: cannot use the certificate")
    assert credentials.token == "first"
    assert credentials.look() == ""  # said once

    replace(Path(key), good)
    assert "read again" in credentials.look()
    assert credentials.token == "second"
    token.write_text(" ")
    assert "is empty" in credentials.look()
    token.unlink()
    assert credentials.look()
    assert credentials.token == "second"


def test_what_is_wrong_at_the_start_is_said(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, NOW)
    with pytest.raises(click.UsageError, match="go together"):
        Credentials(None, cert, None)
    with pytest.raises(click.UsageError, match="cannot use the certificate"):
        Credentials(None, key, cert)
    with pytest.raises(click.UsageError, match="cannot read the token file"):
        Credentials(str(tmp_path / "none"), None, None)


def _certificate(port: int) -> str:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as wrapped:
        der = wrapped.getpeercert(binary_form=True)
        assert der is not None
        return ssl.DER_cert_to_PEM_cert(der)


def _status(port: int, ca: str, token: str) -> int:
    context = ssl.create_default_context(cafile=ca)
    request = urllib.request.Request(
        f"https://localhost:{port}/v1/status", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_hub_and_agent_go_on_with_new_ones_without_a_restart(tmp_path: Path) -> None:
    ends = [dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=days) for days in (30, 60)]
    cert, key = write_pair(tmp_path, ends[0])
    token = tmp_path / "token"
    token.write_text("first")
    capture = tmp_path / "input"
    os.mkfifo(capture)  # a replay that waits for its input is an agent that stays
    hub = Hub(tmp_path, "--tls-cert", cert, "--tls-key", key, "--token-file", str(token))
    with ending(hub):
        until("the hub is up", lambda: any(e.get("event") == "hub is up" for e in hub.events))
        agent = Agent(
            tmp_path, "replay", str(capture), "--hub", f"wss://localhost:{hub.agents_port}", "--tls-ca", cert,
            "--token-file", str(token), "--connect-timeout", "120", "--stall-timeout", "2", "--backoff-max", "1",
        )  # fmt: skip
        with ending(agent), capture.open("wb") as pipe:
            pipe.write(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))  # a pcap without frames
            pipe.flush()
            until("the agent streams", lambda: agent.state == "streaming")
            name = "nodetap_agent_hub_certificate_not_after_timestamp_seconds"
            assert agent.metric(name) == ends[0].timestamp()

            write_pair(tmp_path, ends[1])
            token.write_text("second")
            until("both listeners show the new certificate", lambda: [
                not_after(_certificate(port)) for port in (hub.agents_port, hub.api_port)
            ] == [ends[1].timestamp()] * 2)  # fmt: skip
            assert _status(hub.api_port, cert, "second") == 200
            assert _status(hub.api_port, cert, "first") == 401
            assert agent.state == "streaming"
            assert len([e for e in agent.events if e.get("event") == "welcome"]) == 1

            assert hub.stop() == 0
            again = hub.again()
            with ending(again):
                until("the agent streams again", lambda: agent.metric(name) == ends[1].timestamp())
                until("as streaming", lambda: agent.state == "streaming")
