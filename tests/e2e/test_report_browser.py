"""The report's page in a real browser: Chromium, headless, from a file, without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from scheduler.report.build import build_report
from scheduler.report.page import report_html
from scheduler.report.view import model_views
from tests.support.browser import chromium
from tests.support.reports import hostile_study, study

REPORT = build_report(study())
CHARTS = [chart for model in model_views(REPORT) for chart in model.charts]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


class Opened:
    """A page and everything that went wrong or out while it was open."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())

    def number(self, script: str) -> float:
        return float(self.page.evaluate(script))


@pytest.fixture
def opened(browser: Browser, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    viewport, scheme = getattr(request, "param", (DESK, "light"))
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    yield Opened(page, page_file)
    page.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_html(REPORT), encoding="utf-8")
    return path


def test_it_opens_without_a_word_of_complaint_and_loads_nothing(
    opened: Opened, page_file: Path
) -> None:
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert opened.page.locator("h1").inner_text().startswith("chatglm-6b on")


def test_every_chart_is_seen(opened: Opened) -> None:
    drawn = opened.page.locator(".plot .wide svg")
    assert drawn.count() == len(CHARTS)
    for number in range(drawn.count()):
        box = drawn.nth(number).bounding_box()
        assert box is not None
        assert box["width"] > 350
        assert box["height"] > 60
    assert not opened.page.locator(".plot .narrow svg").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out_in_light_and_dark(
    browser: Browser, page_file: Path, scheme: str
) -> None:
    page = browser.new_page(viewport=DESK, color_scheme=scheme)  # type: ignore[arg-type]
    opened = Opened(page, page_file)
    paper = luminance(colour(page, "body", "background-color"))
    assert paper > 0.8 if scheme == "light" else paper < 0.1
    card = colour(page, ".card", "background-color")
    for selector, prop, least in (
        ("h2", "color", 7.0),
        (".card td .limit", "color", 4.5),
        (".card summary", "color", 4.5),
        (".verdict", "color", 4.5),
        (".plot .wide svg text", "fill", 4.5),
        (".verdict i", "color", 1.9),
        (".plot .wide path[aria-label]", "fill", 1.9),
    ):
        drawn = colour(page, selector, prop)
        assert contrast(drawn, card) >= least, (selector, drawn, card)
    assert opened.complaints == []
    page.close()


def test_a_keyboard_reaches_the_verdicts_and_reads_the_points(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdicts"
    seen = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.closest('figure')?.id ?? ''"))
    assert {chart.slug for chart in CHARTS} <= seen
    for chart in (CHARTS[0], CHARTS[-1]):
        plot = page.locator(f"#{chart.slug} .plot")
        plot.focus()
        tip = plot.locator(".tip")
        assert not tip.is_visible()
        page.keyboard.press("ArrowRight")
        first = tip.inner_text()
        assert first
        page.keyboard.press("End")
        assert tip.inner_text() != first
        page.keyboard.press("Home")
        assert tip.inner_text() == first
        page.keyboard.press("Escape")
        assert not tip.is_visible()
    assert opened.complaints == []


def test_a_mouse_reads_the_nearest_point(opened: Opened) -> None:
    chart = next(chart for chart in CHARTS if chart.slug.startswith("context"))
    plot = opened.page.locator(f"#{chart.slug} .plot")
    mark = plot.locator(".wide [aria-label]").first
    mark.hover()
    assert plot.locator(".tip").inner_text() == mark.get_attribute("aria-label")
    opened.page.mouse.move(0, 0)
    assert not plot.locator(".tip").is_visible()


def test_the_numbers_of_a_chart_unfold(opened: Opened) -> None:
    figure = opened.page.locator(f"#{CHARTS[-1].slug}")
    assert not figure.locator("table").is_visible()
    figure.locator("summary").press("Enter")
    assert figure.locator("table").is_visible()
    assert figure.locator("tbody tr").count() == len(CHARTS[-1].rows)


@pytest.mark.parametrize("opened", [(PHONE, "light"), (PHONE, "dark")], indirect=True)
def test_a_phone_scrolls_in_one_direction_only(opened: Opened) -> None:
    page = opened.page
    assert opened.number("document.documentElement.scrollWidth") == PHONE["width"]
    for figure in page.locator("details").all():
        figure.evaluate("details => { details.open = true; }")
    assert opened.number("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.locator(".plot .narrow svg").first.is_visible()
    assert not page.locator(".plot .wide svg").first.is_visible()
    smallest = opened.number(
        "Math.min(...[...document.querySelectorAll('.narrow svg text')]"
        ".map((text) => text.getBoundingClientRect().height))"
    )
    assert smallest >= 10  # pixels: a chart that is scaled down would be below
    assert opened.complaints == []


def test_paper_is_white_and_shows_no_controls(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(colour(page, "body", "background-color")) > 0.9
    assert page.locator(".plan .plot .wide svg").first.is_visible()
    assert page.locator(".pair .plot .narrow svg").first.is_visible()
    assert opened.number("document.documentElement.scrollWidth") <= opened.number("innerWidth")
    assert not page.locator("nav").is_visible()
    assert page.pdf()[:5] == b"%PDF-"


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(report_html(build_report(hostile_study())), encoding="utf-8")
    page = browser.new_page(viewport=DESK)  # type: ignore[arg-type]
    opened = Opened(page, path)
    page.wait_for_timeout(200)
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    page.close()


def colour(page: Page, selector: str, name: str) -> tuple[float, float, float]:
    """The computed colour of the first match, as red, green and blue from 0 to 1."""
    value = page.locator(selector).first.evaluate(
        "(element, name) => getComputedStyle(element).getPropertyValue(name)", name
    )
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", value)[:3])
    return red, green, blue


def luminance(rgb: tuple[float, float, float]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """Contrast ratio as WCAG 2 defines it, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
