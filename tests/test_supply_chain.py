"""What is installed is what was pinned, and the bill of materials lists what glm-plan runs on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

import pytest

from tests.support.tiny import REPOSITORY

packaging = pytest.importorskip("packaging.requirements")


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Versions by package, as constraints.txt has them for this Python."""
    found = {}
    for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        wanted = packaging.Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate():
            (pin,) = wanted.specifier
            assert pin.operator == "==", line
            assert key(wanted.name) not in found, line
            found[key(wanted.name)] = pin.version
    return found


def needed(root: str, extras: tuple[str, ...]) -> set[str]:
    """Everything that a package needs here, with what that needs, as far as it is installed."""
    seen: set[tuple[str, str]] = set()
    left = [(root, extra) for extra in ("", *extras)]
    while left:
        name, extra = left.pop()
        if (key(name), extra) in seen:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        seen.add((key(name), extra))
        for line in lines:
            wanted = packaging.Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                left += [(wanted.name, one) for one in ("", *wanted.extras)]
    return {name for name, _ in seen} - {key(root)}


def test_everything_that_is_installed_for_us_is_pinned() -> None:
    try:
        distribution("glm-plan")
    except PackageNotFoundError:
        pytest.skip("glm-plan runs from its source tree here")
    pinned = pins()
    found = needed("glm-plan", ("dev",))
    assert {"numpy", "pydantic-core", "uvicorn", "ruff"} <= found
    wrong = {
        name: (version(name), pinned.get(name))
        for name in sorted(found)
        if version(name).partition("+")[0] != pinned.get(name)
    }
    assert not wrong, "installed, pinned; add it to constraints.txt or install again with -c"


def test_the_bill_of_materials_lists_what_runs(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("cyclonedx-py")
    if not tool.exists():
        pytest.skip("cyclonedx-bom is not installed")
    out = tmp_path / "sbom.json"
    project = REPOSITORY / "pyproject.toml"
    flags = ("--pyproject", project, "--output-reproducible", "-o", out)
    subprocess.run([tool, "environment", *flags, sys.executable], check=True, capture_output=True)
    bill = json.loads(out.read_text("utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    main = bill["metadata"]["component"]
    assert main["name"] == "glm-plan"
    listed = {key(one["name"]): one["version"] for one in bill["components"]}
    # What is always needed, read from the project itself.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    declared = tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]
    wanted = [packaging.Requirement(line) for line in declared]
    names = [key(one.name) for one in wanted if one.marker is None or one.marker.evaluate()]
    assert {name: listed.get(name) for name in names} == {name: version(name) for name in names}
    graph = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    direct = {ref.partition("==")[0].lower() for ref in graph[main["bom-ref"]]}
    assert set(names) <= {key(name) for name in direct}
