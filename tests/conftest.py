"""What every test may use: where the corpus is, whether we are root, which tools there are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("nodetap", deadline=None)  # speed is shown in benchmarks, never asserted in tests
settings.load_profile("nodetap")

ROOT = Path(__file__).resolve().parent.parent


def corpus_dir() -> Path:
    """Folder of third-party captures; NODETAP_CORPUS, by default `shared/pcaps` beside the checkout."""
    return Path(os.environ.get("NODETAP_CORPUS", ROOT.parent / "shared" / "pcaps"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    folder = corpus_dir()
    if not folder.is_dir():
        pytest.skip(f"no captures in {folder} (set NODETAP_CORPUS)")
    return folder


@pytest.fixture(scope="session")
def tshark() -> str:
    path = shutil.which("tshark")
    if path is None:
        pytest.skip("tshark is not installed (apt-get install tshark)")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root (network namespaces, live capture)")
    for item in items:
        if "root" in item.keywords:
            item.add_marker(skip)
