"""Chatting on the page: answers stream, stop, are edited, and stay."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, expect

from tests.support.opened_page import ANSWER, DESK, ENDLESS, QUESTION, Opened


def test_ask_and_ask_on(opened: Opened) -> None:
    opened.ask(QUESTION)
    opened.answered(ANSWER)
    figures = opened.last.locator(".figures")
    expect(figures).to_have_text(
        re.compile(r"^first token \S+ ms · \S+ tok/s · 9 tokens · measured by the server$")
    )
    opened.ask("法国的首都是哪里？")
    opened.answered("法国的首都是巴黎。")
    assert opened.page.locator(".message").count() == 4


def test_an_answer_streams_and_stops(context: BrowserContext, opened: Opened) -> None:
    opened.page.evaluate(ENDLESS)
    opened.ask("hi")
    text = opened.last.locator(".rendered")
    expect(text).not_to_be_empty()
    first = text.inner_text()
    expect(text).not_to_have_text(first)
    expect(opened.page.locator("#map .tiles .busy")).to_have_count(1)
    opened.page.click("#stop")
    expect(opened.last.locator(".figures")).to_contain_text("stopped")
    assert len(text.inner_text()) > len(first)
    opened.server.wait_for("slots_busy", 0)
    expect(opened.page.locator("#map .tiles .busy")).to_have_count(0)


def test_escape_stops(opened: Opened) -> None:
    opened.page.evaluate(ENDLESS)
    opened.ask("hi")
    expect(opened.last.locator(".rendered")).not_to_be_empty()
    opened.page.keyboard.press("Escape")
    expect(opened.last.locator(".figures")).to_contain_text("stopped")


def test_an_answer_under_way_survives_a_reload(opened: Opened) -> None:
    opened.page.evaluate(ENDLESS)
    opened.ask("hi")
    kept = opened.last.locator(".rendered")
    opened.wait_until(
        "import('/js/store.js').then(module => module.openStore()).then(store => store.all())"
        ".then(all => all[0].messages[1].content.length > 0)"
    )
    opened.load()
    expect(kept).not_to_be_empty()
    expect(opened.last.locator(".figures")).to_contain_text("stopped")
    opened.server.wait_for("slots_busy", 0)


def test_edit_and_regenerate(opened: Opened) -> None:
    opened.ask("Nonsense")
    expect(opened.page.locator("#send")).to_be_visible(timeout=60_000)
    opened.page.locator(".message.user").get_by_role("button", name="Edit").click()
    opened.page.get_by_label("Edit your question").fill(QUESTION)
    opened.page.locator(".edit").get_by_role("button", name="Send").click()
    opened.answered(ANSWER)
    assert opened.page.locator(".message").count() == 2
    asked = opened.server.metric("answers_total")
    opened.last.get_by_role("button", name="Regenerate").click()
    opened.server.wait_for("answers_total", asked + 1)
    opened.answered(ANSWER)
    assert opened.page.locator(".message").count() == 2


def test_conversations_stay_and_travel(browser: Browser, opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    opened.ask(QUESTION)
    opened.answered(ANSWER)
    opened.load()
    opened.answered(ANSWER)
    page.keyboard.press("Alt+N")
    expect(page.locator(".message")).to_have_count(0)
    opened.ask("How much is 1 plus 17?")
    opened.answered("1 plus 17 is 18.")
    names = page.locator("#conversations .open-one")
    assert names.all_inner_texts() == ["How much is 1 plus 17?", QUESTION]
    names.nth(1).click()
    opened.answered(ANSWER)
    with page.expect_download() as download:
        page.click("#export")
    path = tmp_path / "conversations.json"
    download.value.save_as(path)
    assert json.loads(path.read_text("utf-8"))["schema"] == "glm-plan/conversations/1"

    elsewhere = browser.new_context(viewport=DESK)  # type: ignore[arg-type]
    other = Opened(elsewhere, opened.server)
    assert other.page.locator("#conversations li").count() == 0
    other.page.set_input_files("#import-file", path)
    expect(other.page.locator("#conversations li")).to_have_count(2)
    other.page.get_by_role("button", name=QUESTION, exact=True).click()
    other.answered(ANSWER)
    other.page.on("dialog", lambda dialog: dialog.accept())
    other.page.get_by_role("button", name=f"Delete “{QUESTION}”").click()
    expect(other.page.locator("#conversations li")).to_have_count(1)
    assert other.complaints == []
    elsewhere.close()


def test_a_file_of_something_else_is_refused(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    said: list[str] = []
    opened.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
    for text in (
        "[]",
        "{",
        '{"schema":"glm-plan/conversations/1","conversations":[{"messages":7}]}',
    ):
        path.write_text(text)
        opened.page.set_input_files("#import-file", path)
        opened.page.wait_for_timeout(100)
    assert len(said) == 3
    assert opened.page.locator("#conversations li").count() == 0
