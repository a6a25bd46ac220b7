"""The doctor over TLS: when the hub's certificate ends, as the person and as the agent see it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from procs import Agent, Hub, ending, environment, free_port, program, until

pytestmark = pytest.mark.root


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize(("days", "level", "code"), [(90, "ok", 0), (10, "warn", 0), (2, "bad", 1)])
def test_a_certificate_that_ends_soon_is_told(tmp_path: Path, days: int, level: str, code: int) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days",
         str(days), "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    hub = Hub(tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key))
    with ending(hub):
        until("the hub is up", lambda: "hub is up" in hub.text)
        agent = Agent(
            tmp_path, "run", "--hub", hub.ws.replace("ws:", "wss:"), "--tls-ca", str(certificate), "--interface", "lo",
            "--filter", f"udp port {free_port()}", "--node", "n1",
        )  # fmt: skip
        with ending(agent):
            until("it streams", lambda: agent.state == "streaming")
            done = subprocess.run(
                program(
                    "hub.cli.main", "--hub-url", hub.api.replace("http:", "https:"), "--tls-ca", str(certificate),
                    "doctor", "-o", "json",
                ),
                capture_output=True, text=True, timeout=60, env=environment(),
            )  # fmt: skip
    found = [finding for finding in json.loads(done.stdout)["findings"] if finding["check"] == "certificate"]
    assert [(finding["where"], finding["level"]) for finding in found] == [("here", level), ("n1", level)]
    assert done.returncode == code, done.stdout
