"""Markdown: tables of one line per row, and no name that escapes from its cell."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from scheduler.report.build import build_report
from scheduler.report.markdown import escape, report_markdown, table
from tests.support.reports import hostile_study, study

_RENDERER = MarkdownIt("commonmark", {"html": True}).enable("table")


def test_a_report_is_read_as_headings_and_tables() -> None:
    report = build_report(study())
    text = report_markdown(report)
    kinds = [token.type for token in _RENDERER.parse(text)]
    assert kinds.count("table_open") == 1 + 1 + 4 + 1 + 1
    assert kinds.count("fence") == len(report.plans) + 1
    assert "html_block" not in kinds
    for cell in report.cells:
        assert f"{cell.context_tokens:,} tokens" in text


def test_the_layer_map_counts_blocks() -> None:
    report = build_report(study())
    maps = re.findall(r"^\[([0-9.]+)\]", report_markdown(report), re.MULTILINE)
    assert [(len(strip), strip.count(".")) for strip in maps] == [
        (28, drawn.plan.cpu_blocks) for drawn in report.plans
    ]


def test_hostile_names_bring_neither_html_nor_links() -> None:
    html = _RENDERER.render(report_markdown(build_report(hostile_study())))
    assert "<script" not in html
    assert "<img" not in html
    assert "href=" not in html


@given(st.text(max_size=60))
def test_any_text_stays_in_its_cell(text: str) -> None:
    tokens = _RENDERER.parse(table(("a", "b"), [(text, "z")]))
    assert [token.type for token in tokens].count("tr_open") == 2
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 4
    for part in inline[2].children or []:
        assert part.type in ("text", "text_special")
    assert "\n" not in escape(text)
