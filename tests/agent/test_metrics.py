"""The small server of metrics and probes."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from agent.metrics import serve


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not _has_ipv6(), reason="needs IPv6"))]
)
def test_it_answers_on_either_kind_of_address(host: str) -> None:
    wrong = [""]
    server = serve((host, 0), lambda: b"a 1\n", lambda: "", lambda: wrong[0])
    with closing(server.socket):
        base = f"http://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}"
        with urllib.request.urlopen(f"{base}/metrics", timeout=5) as answer:
            assert answer.read() == b"a 1\n"
        assert urllib.request.urlopen(f"{base}/readyz", timeout=5).status == 200
        wrong[0] = "backoff: no hub"
        with pytest.raises(urllib.error.HTTPError, match="503") as error:
            urllib.request.urlopen(f"{base}/readyz", timeout=5)
        assert error.value.read() == b"backoff: no hub\n"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/other", timeout=5)
        server.shutdown()
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(f"{base}/metrics", timeout=5)
