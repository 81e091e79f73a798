"""The server against its own OpenAPI document: Schemathesis looks for 5xx and broken schemas.

`GLM_PLAN_SCHEMA_CASES=2000` asks for at least so many, with the systematic ones of its coverage
phase; without it there are about a hundred random ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import running_server

CASES = int(os.environ.get("GLM_PLAN_SCHEMA_CASES", "240"))
OPERATIONS = 13
PHASES = "examples,coverage,fuzzing" if CASES > 1000 else "examples,fuzzing"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


@pytest.mark.timeout(3600)
def test_no_case_breaks_the_document(tmp_path: Path, record_property: object) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text("", encoding="utf-8")
    with running_server("--context", "64", "--request-seconds", "60") as server:
        assert len(server.client.get("/openapi.json").json()["paths"]) == OPERATIONS
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "--config-file",
                config,
                "run",
                f"{server.url}/openapi.json",
                "--checks",
                ",".join(CHECKS),
                "--phases",
                PHASES,
                "--max-examples",
                str(max(1, CASES // OPERATIONS)),
                "--seed",
                "1",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert server.client.get("/health").status_code == 200
    found = re.search(r"(\d+) generated", done.stdout)
    assert found, done.stdout[-2000:]
    record_property("figure", f"schemathesis: {found[1]} cases")  # type: ignore[operator]
