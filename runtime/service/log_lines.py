"""The server's log: lines of text or JSON on stderr, each with the request that it belongs to."""

from __future__ import annotations

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import ValidationError

from scheduler.errors import EngineError

LogFormat = Literal["text", "json"]
current_request: ContextVar[str | None] = ContextVar("current_request", default=None)
"""The id of the request that this task answers; None outside of requests."""

_announcements = logging.getLogger("glm_plan")


def configure_logging(level: str, form: LogFormat) -> None:
    """Send every log record of this process to stderr in one form; `level` as --log-level has it.

    What the server announces (see `announce`) is always there.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _announcements.setLevel(logging.INFO)


def announce(message: str) -> None:
    """Tell what whoever started the server waits for: where it listens, that it is ready."""
    _announcements.info(message)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """What a record says beside its sentence, for `extra`; None is left out."""
    return {"fields": {name: one for name, one in values.items() if one is not None}}


def fault_fields(error: BaseException) -> dict[str, dict[str, object]]:
    """The device, blocks and cause that an error of the engine names, or one that caused it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, EngineError) and found.device is not None:
            return fields(device=found.device, blocks=found.blocks, cause=found.cause)
        found = found.__cause__
    return fields()


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record in ASCII, so that no terminal or collector stumbles over it."""
        document: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = current_request.get()
        if request is not None:
            document["request_id"] = request
        document |= getattr(record, "fields", {})
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            document["exception"] = exception_text(error)
        return json.dumps(document, default=str)


class TextLines(logging.Formatter):
    """For people: what was announced as it is; the rest with time, level and request in front."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, control characters escaped; a traceback follows below."""
        message = _one_line(record.getMessage())
        if record.name == _announcements.name:
            return message
        request = current_request.get()
        words = [_time(record), record.levelname, *([f"[{request}]"] if request else []), message]
        values = getattr(record, "fields", {})
        words += [f"{name}={_one_line(str(one))}" for name, one in values.items()]
        error = record.exc_info[1] if record.exc_info else None
        return " ".join(words) + ("" if error is None else f"\n{exception_text(error)}")


def exception_text(error: BaseException) -> str:
    """Where an error came from and its message, its causes first.

    Of a pydantic error only the places are named: its message quotes what it was given, which may
    be somebody's prompt.
    """
    parts = []
    shown: BaseException | None = error
    while shown is not None:
        if isinstance(shown, ValidationError):
            faults = shown.errors(include_input=False, include_url=False, include_context=False)
            message = "; ".join(f"{_place(one['loc'])}: {one['type']}" for one in faults)
        elif hasattr(shown, "errors"):  # FastAPI's own wrap pydantic's
            message = "the details may quote a request"
        else:
            message = str(shown)
        frames = "".join(traceback.format_tb(shown.__traceback__))
        parts.append(f"{frames}{type(shown).__name__}: {message}")
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    return "\n".join(reversed(parts))


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    """Nobody can begin a line of their own in this log, nor colour the terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
