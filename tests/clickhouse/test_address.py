"""A store's url: what it may say, and that its password is never said again."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.store.address import is_server, servers_of
from hub.store.errors import StoreError


def test_everything_that_a_url_may_say() -> None:
    servers = servers_of("clickhouses://tap:p%40ss@h1,h2:9443,[::1]:1/nt?cluster=c-1&quorum=2&timeout=7&ca=/ca.pem")
    assert servers.hosts == (("h1", 8443), ("h2", 9443), ("::1", 1))
    assert (servers.user, servers.password, servers.database) == ("tap", "p@ss", "nt")
    assert (servers.cluster, servers.quorum, servers.timeout, servers.ca) == ("c-1", 2, 7.0, "/ca.pem")
    assert servers.secure


def test_what_a_url_need_not_say() -> None:
    servers = servers_of("clickhouse://h/nt")
    assert (servers.hosts, servers.user, servers.password, servers.cluster) == ((("h", 8123),), "default", "", "")


def test_the_password_is_in_no_text() -> None:
    servers = servers_of("clickhouse://tap:geheim@h1/nt?cluster=c")
    assert "geheim" not in f"{servers} {servers!r}"
    assert str(servers) == "clickhouse://tap@h1:8123/nt?cluster=c"


def test_the_password_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("from the file\n")
    assert servers_of(f"clickhouse://u@h/nt?password_file={tmp_path}/pw").password == "from the file"
    with pytest.raises(StoreError, match="cannot read the password from /none"):
        servers_of("clickhouse://u@h/nt?password_file=/none")


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://u:geheim@/nt", "clickhouse://u:geheim@h", "clickhouse://u:geheim@h/n;t",
        "clickhouse://u:geheim@h/nt?cluster=a'b", "clickhouse://u:geheim@h/nt?replicas=2",
        "clickhouse://u:geheim@h/nt?quorum=many", "clickhouse://u:geheim@h:99999/nt", "clickhouse://u:geheim@h,,i/nt",
        "clickhouse://u:geheim@h/nt?x",
    ],
)  # fmt: skip
def test_a_url_that_is_wrong_is_refused_in_one_line(url: str) -> None:
    assert is_server(url)
    with pytest.raises(StoreError, match="cannot be used") as error:
        servers_of(url)
    assert "geheim" not in str(error.value)
    assert "\n" not in str(error.value)
