"""The page is sound HTML that loads nothing, escapes everything, and shows every number."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from scheduler.errors import UserInputError
from scheduler.report.build import build_report
from scheduler.report.document import Report
from scheduler.report.page import report_html
from scheduler.report.palette import PAGE
from scheduler.report.view import model_views
from tests.support.reports import HOSTILE, hostile_study, machine, study

_VOID = {"meta", "link", "br", "img", "input", "hr"}
_LOADING = {"src", "href", "srcset", "poster", "data", "action", "xlink:href", "style"}


class Page(HTMLParser):
    """Every element with its attributes, and what is not well formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"<{tag}> repeats an attribute")
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(study(contexts=(512, 2048)))


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return report_html(report)


@pytest.fixture(scope="module")
def hostile() -> str:
    return report_html(build_report(hostile_study()))


def test_it_is_well_formed(text: str) -> None:
    page = Page(text)
    assert page.faults == []
    assert text.startswith("<!doctype html>")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.elements:
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in ids


def test_it_loads_nothing(text: str) -> None:
    for tag, attributes in Page(text).elements:
        for name in _LOADING & attributes.keys():
            value = attributes[name] or ""
            assert value.startswith(("#", "data:,")) or name == "style", (tag, name, value)
            assert "url(" not in value
        assert tag not in ("iframe", "object", "embed", "base", "image", "use")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "@import" not in style
    assert "url(" not in style
    for attribute in re.findall(r'\w+="(https?:[^"]*)"', text):
        assert attribute in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


def test_only_its_own_script_may_run(text: str) -> None:
    page = Page(text)
    (policy,) = [m["content"] for m in page.named("meta") if m.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in (policy or "")
    assert "default-src 'none'" in (policy or "")


def test_hostile_names_stay_text(hostile: str) -> None:
    page = Page(hostile)
    assert page.faults == []
    assert len(page.named("script")) == 1
    assert not page.named("img")
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert not (attributes.get("href") or "").startswith("javascript")
    assert HOSTILE in "".join(page.words)
    labels = [
        attributes["aria-label"] or ""
        for _, attributes in page.elements
        if "aria-label" in attributes
    ]
    assert any("<script>alert(1)</script>" in label for label in labels)


def test_every_chart_is_drawn_twice_and_told_in_words(report: Report, text: str) -> None:
    page = Page(text)
    charts = [chart for model in model_views(report) for chart in model.charts]
    assert len(charts) >= 4 + 2
    assert len(page.named("svg")) == 2 * len(charts)
    plots = [d for d in page.named("div") if d.get("class") == "plot"]
    assert len(plots) == len(charts)
    for plot, chart in zip(plots, charts, strict=True):
        assert plot["tabindex"] == "0"
        assert (plot["aria-label"] or "").startswith(chart.alt)
        assert len(chart.rows) >= 1
    for chart in charts:
        (figure,) = re.findall(rf'id="{chart.slug}".*?</figure>', text, re.DOTALL)
        assert figure.count("<tr>") == len(chart.rows) + 1


def test_drawings_are_xml_with_a_mark_for_every_number(report: Report, text: str) -> None:
    charts = [chart for model in model_views(report) for chart in model.charts]
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    for chart, wide in zip(charts, drawn[::2], strict=True):
        root = ET.fromstring(wide)
        marks = [e for e in root.iter() if "aria-label" in e.attrib]
        if chart.slug.startswith("layers"):
            assert len(marks) == 28 + 1
        elif chart.slug.startswith("memory"):
            shown = [v for row in chart.rows for v in row[1:-2] if v != "–"]
            assert len(marks) == len(shown)
        else:
            assert len(marks) == sum(row[2] != "–" for row in chart.rows)


def test_every_verdict_is_in_the_page(report: Report, text: str) -> None:
    for cell in report.cells:
        assert text.count(f'class="verdict {cell.verdict}"') >= 1
    assert len(re.findall(r'<td data-label="(?:fp16 / fp32|int4), ', text)) == len(report.cells)
    for sentence in report.assumptions:
        assert sentence.split(":")[0].split("'")[0] in text


def test_colours_come_from_the_style_sheet(text: str) -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for colour in {*PAGE.series, PAGE.ink, PAGE.muted, PAGE.line}:
        name = colour.removeprefix("var(").removesuffix(")")
        assert style.count(f"{name}: #") == 3  # light, dark, print
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.findall(r'(?:fill|stroke)="#', drawings)


def test_a_page_is_small(text: str) -> None:
    assert len(text.encode()) < 1_500_000


def test_an_endless_page_is_refused() -> None:
    long = build_report(
        study(machines=[machine("a card", 8)], contexts=range(1, 102), slots=range(1, 12))
    )
    with pytest.raises(UserInputError, match="Choose --format csv or json"):
        report_html(long)


@pytest.mark.parametrize("policy", ["fit", "reserve"])
def test_nothing_fits_is_a_page_too(policy: str) -> None:
    none = study(machines=[machine("tiny", 0.5, ram_gib=1)], policy=policy)  # type: ignore[arg-type]
    page = Page(report_html(build_report(none)))
    assert page.faults == []
    assert "does not fit" in "".join(page.words)
