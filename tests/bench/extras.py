"""Does a fresh environment with one extra resolve, import and compute?

`python -m tests.bench.extras ort gpu openvino` makes a virtual environment per extra under a
temporary folder, one at a time, installs this checkout with the extra into it, imports the engine,
runs `glm-plan devices --self-test --json`, prints a line of what it found, and deletes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import click

EXTRAS = ("ort", "gpu", "cuda", "openvino")
_REPOSITORY = Path(__file__).parents[2]
_IMPORT = "import onnxruntime as o; print(o.__version__, *o.get_available_providers())"


@click.command()
@click.argument("extras", nargs=-1, type=click.Choice(EXTRAS))
@click.option("--self-test/--no-self-test", default=True, show_default=True)
def main(extras: tuple[str, ...], self_test: bool) -> None:
    """Print a Markdown row per extra; all of them when none is named."""
    print(
        "| extra | installed | providers | backends that work | MB on disk |\n" + "| --- " * 5 + "|"
    )
    failed = [extra for extra in extras or EXTRAS if not tried(extra, self_test)]
    sys.exit(1 if failed else 0)


def tried(extra: str, self_test: bool) -> bool:
    """Whether everything went well; says what happened either way."""
    with tempfile.TemporaryDirectory(prefix=f"glm-plan-{extra}-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin/python"
        wanted = f"{_REPOSITORY}[{extra}]"
        installed = called(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", wanted)
        if installed.returncode:
            print(f"| {extra} | does not resolve: {installed.stderr.strip()[-200:]} | | | |")
            return False
        imported = called(python, "-c", _IMPORT)
        if imported.returncode:
            print(f"| {extra} | does not import: {imported.stderr.strip()[-200:]} | | | |")
            return False
        version, *providers = imported.stdout.split()
        size = sum(one.lstat().st_size for one in Path(folder).rglob("*")) / 1e6
        flags = ["--self-test"] if self_test else []
        told = called(python, "-m", "runtime.cli", "devices", "--json", *flags)
        working = ", ".join(works(told.stdout)) if told.returncode == 0 else "failed"
        print(
            f"| {extra} | {version} | {', '.join(providers)} | {working} | {size:.0f} |", flush=True
        )
        return told.returncode == 0


def works(document: str) -> list[str]:
    """Backends that work, with those whose self-test failed marked so."""
    backends = [one for engine in json.loads(document)["engines"] for one in engine["backends"]]
    found = []
    for one in backends:
        if one["status"] == "works":
            problem = one.get("self_test", {}).get("problem")
            found.append(f"{one['name']} ({problem})" if problem else one["name"])
    return found


def called(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Elsewhere than in the checkout, so that what was installed is what runs.
    return subprocess.run(
        [python, *arguments], cwd=python.parent, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    main()
