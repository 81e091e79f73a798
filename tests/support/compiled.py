"""Stand-ins for drivers' libraries, compiled by the test that needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def compile_library(source: Path, library: Path) -> None:
    """Build a shared library; skip, saying why, where nothing can build one, and fail in CI."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not sys.platform.startswith("linux") or compiler is None:
        reason = f"a stand-in for {library.name} needs Linux and a C compiler (cc, gcc or clang)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    flags = ["-Wall", "-Werror", "-shared", "-fPIC"]
    built = subprocess.run(
        [compiler, *flags, "-o", library, source], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
