"""The layer map beside the chat, and the planner's sliders."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.support.opened_page import ANSWER, QUESTION, Opened


def test_the_map_shows_what_runs(opened: Opened) -> None:
    page = opened.page
    grid = page.locator("#map .blocks")
    assert grid.get_attribute("aria-label") == (
        "8 blocks: gpu0 blocks 0–4; cpu blocks 5–7, lm_head"
    )
    assert grid.locator(".tone-0").all_inner_texts() == [*"01234"]
    assert grid.locator(".tone-1").all_inner_texts() == [*"567", "lm_head"]
    opened.ask(QUESTION)
    opened.answered(ANSWER)
    map_text = page.locator("#live")
    expect(map_text).to_contain_text("all (measured)")
    for text in (
        "planned (estimated)",
        "actual (measured)",
        "0 of 2 busy",
        "queue 0 of 64",
        "asked for mnn:cuda",
        "Not as planned: gpu0: asked for CUDA, running on CPU",
    ):
        expect(map_text).to_contain_text(text)


def test_a_slider_redraws_the_plan(opened: Opened) -> None:
    page = opened.page
    page.click("#show-planner")
    page.get_by_label("Model").select_option("chatglm-6b")
    on_gpu = page.locator("#planner .blocks .tone-0")
    expect(on_gpu).to_have_count(15)  # floor((8 - 2) GiB / 385 MiB)
    slow = page.locator("#planner .card").first.inner_text()
    page.get_by_label("Free VRAM").fill("11")
    expect(on_gpu).to_have_count(23)
    assert page.locator("#planner .card").first.inner_text() != slow
    expect(page.locator("#planner .verdict")).to_contain_text("23 of 28 blocks on the GPU")
    page.get_by_label("GPU precision").select_option("int4")
    expect(on_gpu).to_have_count(28)
    page.get_by_label("Free VRAM").focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    expect(on_gpu).to_have_count(0)
    page.get_by_label("Slots").fill("8")
    expect(page.locator("#planner .verdict.bad")).to_contain_text("RAM needs")
    page.locator("#planner [name=gpu]").select_option("GeForce RTX 3060 12 GB")
    expect(page.locator("#planner .controls strong").first).to_have_text("12.00 GiB")
