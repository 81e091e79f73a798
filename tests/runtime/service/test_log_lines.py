"""Lines of the log: parseable, one each, with their request, and without anybody's prompt."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.service.log_lines import (
    JsonLines,
    TextLines,
    current_request,
    exception_text,
    fields,
)
from runtime.service.request_log import request_id


def record(message: str, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("runtime.service.x", logging.WARNING, "x.py", 1, message, None, None)
    made.__dict__.update(fields(**values))
    return made


def test_json_has_what_a_collector_asks_for() -> None:
    token = current_request.set("abc-1")
    try:
        line = JsonLines().format(record("memory is short", device="gpu0", blocks=None))
    finally:
        current_request.reset(token)
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "logger": "runtime.service.x",
        "message": "memory is short",
        "request_id": "abc-1",
        "device": "gpu0",
    }
    assert "request_id" not in json.loads(JsonLines().format(record("x")))


@given(st.text())
def test_no_message_begins_a_line_of_its_own(message: str) -> None:
    for formatter in (JsonLines(), TextLines()):
        line = formatter.format(record(message, cause=message))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


@given(st.one_of(st.none(), st.text(max_size=80)))
def test_ids_of_clients_are_taken_only_where_they_can_do_no_harm(given_id: str | None) -> None:
    found = request_id(given_id)
    assert 1 <= len(found) <= 64
    assert all(one.isascii() and (one.isalnum() or one in "._-") for one in found)
    if found == given_id:
        return
    assert request_id(given_id) != found  # made anew each time


def test_a_clients_id_is_kept() -> None:
    assert request_id("trace.7_a-B") == "trace.7_a-B"
    assert request_id("trace\n7") != "trace\n7"


QUESTION = "What may nobody read?"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: int


def test_an_error_names_its_place_and_causes_but_never_what_it_was_given() -> None:
    with pytest.raises(RuntimeError) as caught:
        _answer(QUESTION)
    text = exception_text(caught.value)
    assert QUESTION not in text
    assert "ValidationError: text: int_parsing" in text
    assert text.endswith("RuntimeError: the answer could not be made")
    assert "test_log_lines.py" in text


def _answer(text: str) -> None:
    try:
        _Answer.model_validate({"text": text})
    except ValidationError as error:
        raise RuntimeError("the answer could not be made") from error
