"""What tools/chart.py writes is as written, and says something of every value."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def _load() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec = importlib.util.spec_from_file_location("chart_tool", ROOT / "tools" / "chart.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "tools"))


tool = _load()


@pytest.mark.parametrize("name", tool.files())
def test_files_are_as_generated(name: str) -> None:
    assert (tool.CHART / name).read_text() == tool.files()[name], "run `make docs`"


def test_every_value_is_explained_and_every_rule_is_for_one() -> None:
    text = (tool.CHART / "values.yaml").read_text()
    values, said = yaml.safe_load(text), tool.comments_of(text)
    paths = {path for path, _ in tool.leaves(values)}
    assert not [path for path in paths if not said.get(path) and path.rsplit(".", 1)[-1] not in tool.COMMON]
    assert set(tool.RULES) <= paths
