"""Every statement that a cluster is given is parsed by ClickHouse's own parser, and says what it should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub.store import cluster_ddl as layout
from hub.store import rollups
from hub.store.ddl import BATCHES, STORED, create, shown_columns
from protocol.schema import FLOWS, PACKETS, TABLES, Table


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The tree of a statement, by the engine's parser in a process of its own; raises where it is none."""
    import json
    import subprocess
    import sys

    folder: Path = tmp_path_factory.mktemp("parser")
    code = (
        "import chdb, json, sys\nc = chdb.connect(sys.argv[1])\n"
        "for line in sys.stdin:\n"
        "    try: said = c.query('EXPLAIN AST ' + json.loads(line), 'TSVRaw').bytes().decode()\n"
        "    except Exception as error: said = 'ERROR ' + str(error)\n"
        "    print(json.dumps(said), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def ask(sql: str) -> str:
            print(json.dumps(sql), file=child.stdin, flush=True)  # type: ignore[arg-type]
            said = str(json.loads(child.stdout.readline()))  # type: ignore[union-attr]
            assert not said.startswith("ERROR"), f"{said}\n{sql}"
            return said

        yield ask
        child.stdin.close()


@pytest.mark.parametrize("cluster", ["", "main-1.east"], ids=["one server", "cluster"])
def test_every_statement_is_one_that_clickhouse_parses(parse: Callable[[str], str], cluster: str) -> None:
    statements = [
        *layout.everything("nodetap", cluster),
        *layout.extend(PACKETS, {"agent": "String"}, (), cluster),
        *layout.extend(BATCHES, {"agent": "String"}, (), cluster),
        layout.drop_partition("packets", "2026-01-01", cluster),
        layout.drop_partition("flows_hour", "2026-01-01", cluster),
        *(said for source in rollups.SOURCES for said in rollups.roll_up(source, 1, 2, 3, 4).values()),
        *(rollups.join(source, 1, 2, 3, 4) for source in rollups.SOURCES),
        *(rollups.rows_of(source, 1, 2) for source in rollups.SOURCES),
    ]
    assert len(statements) > 60
    for statement in statements:
        parse(statement)


def test_a_cluster_has_replicated_tables_and_distributed_ones_before_them(parse: Callable[[str], str]) -> None:
    statements = layout.everything("nodetap", "main")
    assert all(" ON CLUSTER `main`" in statement for statement in statements)
    trees = [parse(statement) for statement in statements]
    assert sum("Function ReplicatedMergeTree" in tree for tree in trees) == 9
    assert sum("Function ReplicatedReplacingMergeTree" in tree for tree in trees) == 5
    assert sum("Function Distributed" in tree and "Function cityHash64" in tree for tree in trees) == 14
    assert sum("non_replicated" in statement for statement in statements) == 0


def test_rows_of_one_agent_stay_on_one_shard() -> None:
    """Where they are, tokens are known; and only lines of one shard and partition are ever merged into one."""
    for table in STORED.values():
        statements = layout.create(table, "nodetap", "main")
        assert any("cityHash64(agent)" in statement for statement in statements)
    (lines, _, view) = layout.create(BATCHES, "nodetap", "main")
    assert "PARTITION" not in lines
    assert view.endswith("SELECT * FROM batch_lines FINAL")


def test_the_columns_are_those_of_the_embedded_store() -> None:
    for table in TABLES.values():
        embedded = create(table)
        body = embedded[embedded.index("(") : embedded.index(" ENGINE")]
        assert body in layout.create(table, "nodetap", "main")[0]
        assert body in layout.create(table, "nodetap")[0]


def test_a_store_that_lacks_a_column_gets_it_before_and_behind() -> None:
    stored = {name: kind for name, kind in _whole(BATCHES).items() if name != "final"}
    local, distributed, view = layout.extend(BATCHES, stored, ["by_commit"], "main")
    assert local.startswith("ALTER TABLE batch_lines_local ON CLUSTER `main` ADD COLUMN IF NOT EXISTS `final` UInt8")
    assert distributed.startswith("ALTER TABLE batch_lines ON CLUSTER `main` ADD COLUMN IF NOT EXISTS `final` UInt8")
    assert view.startswith("CREATE OR REPLACE VIEW batches ON CLUSTER `main`")
    assert layout.extend(BATCHES, _whole(BATCHES), ["by_commit"], "main") == []


def test_a_store_that_lacks_an_index_gets_it_where_the_rows_are() -> None:
    (on_a_cluster,) = layout.extend(FLOWS, _whole(FLOWS), ["by_commit", "by_address"], "main")
    assert on_a_cluster.startswith("ALTER TABLE flows_local ON CLUSTER `main` ADD INDEX IF NOT EXISTS by_end `end`")
    (on_one,) = layout.extend(FLOWS, _whole(FLOWS), ["by_commit", "by_address"])
    assert on_one.startswith("ALTER TABLE flows ADD INDEX IF NOT EXISTS by_end `end`")


def _whole(table: Table) -> dict[str, str]:
    return {column.name: column.clickhouse for column in shown_columns(table)}


def test_the_sums_are_those_of_the_embedded_store() -> None:
    for statement, (source, step) in zip(
        rollups.create(), [(source, step) for source in rollups.SOURCES for step in rollups.STEPS], strict=False
    ):
        body = statement[statement.index("(") : statement.index(" ENGINE")]
        order = statement[statement.index("PARTITION") : statement.index(" SETTINGS")]
        local, before = layout.create_rollup(source, step, "nodetap", "main")
        (alone,) = layout.create_rollup(source, step, "nodetap")
        assert all(body in said and order in said for said in (local, alone))
        assert "cityHash64(agent)" in before
