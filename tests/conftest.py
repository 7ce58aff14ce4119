"""What every test runs under: no network, and Hypothesis without deadlines or chance."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["fixtures_browser", "fixtures_models"]

settings.register_profile("headscope", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("headscope")

# Files and folders whose tests start processes, clusters or browsers and wait for them.
ALONE = (
    "app/browser",
    "jobs/test_ray_engine.py",
    "jobs/test_kills.py",
    "jobs/test_claims.py",
    "test_wheel.py",
)
_TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what should not share the cores with other tests."""
    for item in items:
        where = item.path.relative_to(_TESTS).as_posix() if item.path.is_relative_to(_TESTS) else ""
        if where.startswith(ALONE) or "real_ctrl_c" in item.name:
            item.add_marker(pytest.mark.alone)
