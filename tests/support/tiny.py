"""Where the tiny model that ships with glm-plan lies, and the list it is tested with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
TINY_CHECKPOINT = REPOSITORY / "profiles" / "models" / "tiny-glm"
TINY_BUNDLE = REPOSITORY / "profiles" / "models" / "tiny-glm-bundle"
TEST_LIST = REPOSITORY / "tests" / "data" / "tiny_glm_questions.jsonl"


def questions() -> list[dict[str, Any]]:
    """The test list: category, language, history, question, answer."""
    lines = TEST_LIST.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
