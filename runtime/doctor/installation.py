"""Findings about the installation: Python, the packages it needs, extras, and clashes of names."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from runtime.backends.ort_session import DISTRIBUTIONS, clash
from runtime.bundle import hash_file
from runtime.doctor.finding import Finding, fail, ok, warn
from scheduler.errors import BundleError

_LEAST_PYTHON = (3, 10)
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?:>=\s*([0-9.]+))?\s*(?:;(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_BEFORE_PYTHON = re.compile(r"python_version\s*<\s*['\"]3\.(\d+)['\"]")
_FROM_PYTHON = re.compile(r"python_version\s*>=\s*['\"]3\.(\d+)['\"]")
# The folders that glm-plan installs beside all other packages.
OWN_PACKAGES = ("scheduler", "runtime", "profiles")
_ONE_OF = frozenset(DISTRIBUTIONS.values())


@dataclass(frozen=True)
class Requirement:
    """A package that glm-plan asks for; `extra` None: always."""

    name: str
    least: str | None
    extra: str | None


def python(version: tuple[int, ...], bits: int) -> Finding:
    """Whether this interpreter can run everything."""
    text = f"{'.'.join(map(str, version[:3]))}, {bits} bits"
    if version[:2] < _LEAST_PYTHON:
        return fail("Python", text, "install Python 3.10 or newer")
    if bits < 64:
        return fail("Python", text, "install a Python of 64 bits: engines have no others")
    return ok("Python", text)


def read_requirements(lines: Iterable[str], minor: int) -> list[Requirement]:
    """What glm-plan's metadata asks for on Python 3.`minor`, in the words of its own pyproject."""
    found = []
    for line in lines:
        match = _REQUIREMENT.match(line)
        assert match is not None
        name, least, marker = match[1], match[2], match[3] or ""
        before, since = _BEFORE_PYTHON.search(marker), _FROM_PYTHON.search(marker)
        if (before and minor >= int(before[1])) or (since and minor < int(since[1])):
            continue
        extra = _EXTRA.search(marker)
        found.append(Requirement(name, least, extra[1] if extra else None))
    return found


def packages(requirements: Sequence[Requirement], installed: Mapping[str, str]) -> list[Finding]:
    """Whether what glm-plan cannot run without is here and new enough.

    `installed` has versions by lower-case names.
    """
    wanted = [one for one in requirements if one.extra is None]
    if not wanted:
        return [
            warn(
                "packages",
                "glm-plan is not installed here, but runs from its source tree",
                "pip install it, so that its requirements can be checked",
            )
        ]
    wrong = [text for one in wanted if (text := _wrong(one, installed))]
    if wrong:
        return [fail("packages", text, "pip install --upgrade glm-plan") for text in wrong]
    names = ", ".join(f"{one.name} {installed[_key(one.name)]}" for one in wanted)
    return [ok("packages", names)]


def extras(requirements: Sequence[Requirement], installed: Mapping[str, str]) -> list[Finding]:
    """Which extras are complete; one that is here in part warns, one that is not is no fault."""
    names = {one.extra for one in requirements if one.extra is not None} - {"dev"}
    whole, absent, findings = [], [], []
    for name in sorted(names):
        wrong = [
            (one, text)
            for one in requirements
            if one.extra == name and (text := _wrong(one, installed))
        ]
        count = sum(one.extra == name for one in requirements)
        engine_missing = any(one.name in DISTRIBUTIONS for one, _ in wrong)
        if not wrong:
            whole.append(name)
        elif len(wrong) == count or (name in _ONE_OF and engine_missing):
            absent.append(name)
        else:
            findings.append(
                warn(
                    "extras",
                    f"{name} is here in part: {', '.join(text for _, text in wrong)}",
                    f"pip install 'glm-plan[{name}]'",
                )
            )
    if not names:
        return []
    without = f"; without {', '.join(absent)}" if absent else ""
    return [ok("extras", f"{', '.join(whole) or 'none'}{without}"), *findings]


def onnx_runtimes(distributions: list[str]) -> Finding:
    """Whether several packages of ONNX Runtime wrote over each other."""
    sentence = clash(distributions)
    if sentence is None:
        return ok("ONNX Runtime", ", ".join(distributions) or "not installed")
    what, _, remedy = sentence.partition(": ")
    return fail("ONNX Runtime", what, remedy)


def altered(names: Iterable[str]) -> Finding:
    """Whether files of installed packages are those that their wheels brought, by checksum.

    Packages that are not here, and files without a checksum, are passed over.
    """
    count, wrong = 0, []
    for name in names:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        for file in files:
            if file.hash is None or file.hash.mode != "sha256":
                continue
            count += 1
            if _digest(Path(str(file.locate()))) != file.hash.value:
                wrong.append(f"{name}: {file}")
    if not wrong:
        return ok("files", f"{count} files of packages are as installed")
    more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
    packages_hit = " ".join(sorted({one.partition(":")[0] for one in wrong}))
    return fail(
        "files",
        f"{wrong[0]}{more} are not as installed",
        f"pip install --force-reinstall {packages_hit}",
    )


def _digest(file: Path) -> str | None:
    """The checksum as wheels write it: base64 for file names, without padding."""
    try:
        digest = bytes.fromhex(hash_file(file))
    except BundleError:
        return None
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def own_names(owners: Mapping[str, Sequence[str]], folders: Sequence[str]) -> Finding:
    """Whether other packages took the import names of glm-plan.

    `owners` are the installed packages by import name, `folders` where the names were found.
    """
    for name in OWN_PACKAGES:
        others = sorted({one for one in owners.get(name, ()) if _key(one) != "glm-plan"})
        if others:
            return fail(
                "import names",
                f"{', '.join(others)} also installs a package called {name}",
                "give glm-plan an environment of its own (python -m venv, pipx, uv tool)",
            )
    if len(set(folders)) > 1:
        return fail(
            "import names",
            f"scheduler, runtime and profiles come from {' and '.join(sorted(set(folders)))}",
            "remove one installation, or unset PYTHONPATH",
        )
    return ok("import names", "scheduler, runtime and profiles are glm-plan's own")


def _wrong(one: Requirement, installed: Mapping[str, str]) -> str | None:
    found = installed.get(_key(one.name))
    if found is None:
        return f"{one.name} is missing"
    if one.least is not None and _numbers(found) < _numbers(one.least):
        return f"{one.name} is {found}, {one.least} or newer is needed"
    return None


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, as far as it is numbers; trailing zeros do not count."""
    numbers = [int(word) for word in re.match(r"[0-9.]*", version)[0].split(".") if word]  # type: ignore[index]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
