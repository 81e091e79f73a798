"""The page in both languages and colours, by keyboard, on a phone, and for a screen reader."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.support.opened_page import (
    ANSWER,
    DESK,
    MARKDOWN,
    PHONE,
    PROVENANCES,
    QUESTION,
    Opened,
    exported,
)


def test_the_other_language_and_the_other_colours(opened: Opened) -> None:
    page = opened.page
    opened.ask(QUESTION)
    opened.answered(ANSWER)
    page.get_by_role("button", name="中文").click()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    for text in ("新对话", "规划", "发送", "重新生成", "层图", "上一个词元"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(2):  # as the system, light, dark
        page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    opened.load()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_every_word_is_there_in_both_languages(opened: Opened) -> None:
    keys = [
        opened.page.evaluate(
            f"import('/js/words_{name}.js').then(words => Object.keys(words.default))"
        )
        for name in ("en", "zh")
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 90
    scripts = "".join(
        opened.server.client.get(f"/{name}").text
        for name in (
            "index.html",
            *opened.page.evaluate(
                "performance.getEntriesByType('resource')"
                ".map(one => new URL(one.name).pathname.slice(1))"
                ".filter(name => name.startsWith('js/'))"
            ),
        )
        if "words" not in name
    )
    assert [key for key in keys[0] if f'"{key}"' not in scripts and key not in PROVENANCES] == []


def test_the_keyboard_alone_is_enough(opened: Opened) -> None:
    page = opened.page
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the question"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("1+1")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator("#said")).to_have_text("The answer is complete.")


@pytest.mark.parametrize("context", [(PHONE, "light"), (PHONE, "dark")], indirect=True)
def test_a_phone(opened: Opened) -> None:
    page = opened.page
    opened.ask(QUESTION)
    opened.answered(ANSWER)

    def no_side_scrolling() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]

    no_side_scrolling()
    assert not opened.drawer("map").is_visible()
    page.get_by_role("button", name="Layer map").click()
    expect(opened.drawer("map").locator(".blocks")).to_be_visible()
    page.keyboard.press("Escape")
    assert not opened.drawer("map").is_visible()
    page.get_by_role("button", name="Conversations").click()
    page.locator("#new").click()
    assert not opened.drawer("list").is_visible()
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("button", name="Planner").click()
    expect(page.locator("#planner .blocks")).to_be_in_viewport()
    no_side_scrolling()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_role("button", name="Done")).to_be_in_viewport()
    no_side_scrolling()


@pytest.mark.parametrize(
    "context", [(DESK, "light"), (DESK, "dark"), (PHONE, "light")], indirect=True
)
def test_axe_finds_nothing(opened: Opened) -> None:
    page = opened.page
    faults = {}

    def look(where: str) -> None:
        for one in Axe().run(page).response["violations"]:
            faults[f"{where}: {one['id']} ({one['impact']})"] = [
                node["html"][:200] for node in one["nodes"]
            ]

    look("empty")
    opened.ask(QUESTION)
    opened.answered(ANSWER)
    opened.page.set_input_files("#import-file", files=[exported(MARKDOWN)])
    expect(page.locator(".code")).to_be_visible()
    look("chat")
    page.click("#open-settings")
    look("settings")
    page.keyboard.press("Escape")
    page.click("#show-planner")
    expect(page.locator("#planner .blocks")).to_be_visible()
    look("planner")
    assert faults == {}
