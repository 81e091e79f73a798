"""Chat templates, which come with a model and may be hostile, rendered within time and memory."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from runtime.template_process import MAX_SECONDS, serve
from scheduler.errors import CheckpointError, UserInputError

MAX_TEMPLATE_BYTES = 256 << 10  # published ones have up to about 20 KiB
_START_SECONDS = 60.0  # a busy machine may be slow to start a process


class ChatTemplate:
    """A Jinja chat template, rendered in a child process that is kept for the next rendering.

    Jinja's sandbox keeps a template from the machine, not from its time and memory: one filter
    call can ask for more than either. So the child has a limit of memory and is ended when a
    rendering takes longer than `MAX_SECONDS`. Calls from several threads take turns.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: tuple[BaseProcess, Connection] | None = None

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        special_texts: Mapping[str, str] | None = None,
    ) -> str:
        """The prompt's text; `special_texts` are names such as bos_token that it may use.

        Raises UserInputError when the template refuses the messages, and CheckpointError when it is
        wrong or exceeds its limits.
        """
        request = {
            "messages": [
                {key: value for key, value in one.items() if value is not None} for one in messages
            ],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **(special_texts or {}),
        }
        return self._ask({"template": self._source, "variables": request})

    def check(self) -> None:
        """Raise CheckpointError unless the template can be parsed."""
        self._ask({"template": self._source})

    def close(self) -> None:
        """End the child process; the next rendering starts another."""
        with self._lock:
            self._end_child()

    def _ask(self, request: dict[str, Any]) -> str:
        content = json.dumps(request).encode()
        with self._lock:
            if self._child is None or not self._child[0].is_alive():
                self._end_child()
                self._child = _start_child()
            process, pipe = self._child
            try:
                pipe.send_bytes(content)
                if not pipe.poll(MAX_SECONDS):
                    self._end_child()
                    raise _limit(f"took longer than {MAX_SECONDS:g} seconds")
                answer = json.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                process.join(1)
                self._end_child()
                raise _limit("ended the process that renders it") from None
        kind, text = answer["kind"], str(answer["text"])
        if kind == "text":
            return text
        if kind == "refused":
            raise UserInputError(f"the model's chat template refuses these messages: {text}.")
        if kind == "limit":
            raise _limit(text)
        raise CheckpointError(
            f"the model's chat template is wrong ({text}); replace chat_template.jinja in the"
            " checkpoint and export it again."
        )

    def _end_child(self) -> None:
        if self._child is not None:
            process, pipe = self._child
            pipe.close()
            process.kill()
            process.join()
            self._child = None


def check_template(source: str) -> None:
    """Raise CheckpointError unless `source` can be parsed as a chat template."""
    template = ChatTemplate(source)
    try:
        template.check()
    finally:
        template.close()


def _limit(what: str) -> CheckpointError:
    return CheckpointError(
        f"the model's chat template {what} and was stopped; it is hostile or damaged, replace"
        " chat_template.jinja in the checkpoint and export it again."
    )


def _start_child() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), name="chat-template", daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_SECONDS):
            raise EOFError
        ours.recv_bytes()
    except (EOFError, OSError):
        process.kill()
        process.join()
        raise CheckpointError("the process that renders chat templates did not start.") from None
    return process, ours
