"""One real Ray cluster for all tests of a module that need Ray."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the marked tests aloud where Ray is missing; where CI is set they must run."""
    try:
        import ray  # noqa: F401
    except ImportError:
        if not os.environ.get("CI"):
            reason = "Ray is not installed: pip install 'glm-plan[cluster]'"
            for item in items:
                if item.get_closest_marker("cluster"):
                    item.add_marker(pytest.mark.skip(reason=reason))
