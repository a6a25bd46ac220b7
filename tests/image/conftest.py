"""These tests run the images that `make image-test` has built; without it they are skipped."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.root)
            if not os.environ.get("NODETAP_IMAGES"):
                item.add_marker(pytest.mark.skip(reason="runs in images: make image-test"))
