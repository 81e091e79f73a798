"""Command lines, and the file that may hold options of a server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from tests.support.fuzzing.target import Prepared

# What takes minutes or never ends, and what starts processes, is parsed only.
_RUN = ("plan", "report", "models", "gpus", "bundle")
_LINES = [
    "plan --vram 11",
    "plan --model chatglm-6b --vram 11 --vram 6GiB --policy fit --explain",
    "plan --model llama-2-7b --gpu rtx4090 --cpu 9950x --ram 64 --slots 4 --context 4096 --json",
    "plan --model tiny-glm --precision int4 --gpu-blocks 3 --reserve 1GiB --table",
    "plan --model chatglm-6b --max-vram 9.5 --vram 10000MiB --objective throughput --policy fit",
    "--vram 8",
    "models --json",
    "gpus 3090",
    "gpus --min 20 --json",
    "bundle show bundle",
    "bundle verify bundle --json",
    "bundle diff bundle bundle",
    "report --model tiny-glm --vram 8 --format csv --context 512",
    "serve --port 0 --queue 3 --vram 11 --api-key abcdefgh --max-body 1MiB --config serve.toml",
    "run --model tiny-glm --max-tokens 3 --temperature 0 --seed 7 --top-k 5 hello",
    "export config.json --out out --precision int4 --jobs 2 --weight-block 32",
    "bench --prompts 16,64 --outputs 4 --requests 1 --json",
    "calibrate --name here --width 512",
    "pull a/b --revision main --include *.gguf",
    "chat --temperature 0.5 --system hello",
]
_SERVE = """port = 9000
host = "127.0.0.1"
vram = ["11", "8GiB"]
queue = 3
precision = "int4"
request-seconds = 12.5
api_key = ["abcdefghijkl"]
max-body = "2MiB"
policy = "fit"
insecure = false
"""


def command_line(folder: Path) -> Prepared:
    """`main` with its output caught; bundles and files named in the words are in the folder."""
    import click

    from runtime.cli.main import cli, main
    from tests.support.bundles import write_bundle

    write_bundle(folder / "bundle")
    (folder / "serve.toml").write_text(_SERVE)
    (folder / "config.json").write_text("{}")

    def read(content: bytes) -> None:
        words = [word for word in json.loads(content) if isinstance(word, str)]
        words = [word for word in words if _can_be_given(word)]
        words = [word for word in words if not word.startswith(("--out", "--chart"))]
        said, printed = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            if not words or words[0].startswith("-") or words[0] in _RUN:
                with contextlib.suppress(SystemExit):
                    main(words)
            elif (command := cli.get_command(click.Context(cli), words[0])) is not None:
                with contextlib.suppress(click.exceptions.Exit, click.ClickException):
                    command.make_context(words[0], words[1:])
        sentences = said.getvalue()
        if "Traceback" in sentences or not sentences.replace("\n", "").isprintable():
            raise AssertionError(f"stderr: {sentences[:500]!r}")

    seeds = [json.dumps(line.split()).encode() for line in _LINES]
    return read, seeds


def _can_be_given(word: str) -> bool:
    """Whether a system can start a program with this word."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def serve_config(folder: Path) -> Prepared:
    """The options of `glm-plan serve` from a file, as click reads them; nothing is served."""
    import click

    from runtime.cli.serve import command

    path = folder / "serve.toml"
    assert sys.stdout is not None

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(click.UsageError):
            command.make_context("serve", ["--config", str(path)])

    return read, [_SERVE.encode(), b"slots = 2\n[nested]\na = 1\n", b'vram = ["11"]\n']
