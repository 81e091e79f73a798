"""The page: a report as one HTML file that loads nothing and works from a disk."""

from __future__ import annotations

from scheduler.errors import UserInputError
from scheduler.report import words
from scheduler.report.document import Report
from scheduler.report.html import render_page
from scheduler.report.summary import figures_of, lead_of, title_of
from scheduler.report.view import (
    LARGEST_PAGE,
    ModelView,
    answer_columns,
    answer_row,
    model_views,
)
from scheduler.units import format_size


def report_html(report: Report) -> str:
    """Make the page.

    Raises UserInputError for more verdicts than a page shows, and what `render_page` does.
    """
    if len(report.cells) > LARGEST_PAGE:
        raise UserInputError(
            f"A page of {len(report.cells):,} verdicts cannot be read; the most is"
            f" {LARGEST_PAGE:,}. Choose --format csv or json, or ask for less."
        )
    return render_page(
        "page.html.j2",
        report=report,
        title=title_of(report),
        lead=lead_of(report.cells),
        figures=figures_of(report),
        models=model_views(report),
        verdict_words=words.VERDICT_WORDS,
        marks=words.VERDICT_MARKS,
        meanings=words.MEANINGS,
        blocks_text=words.blocks_text,
        limit_text=words.limit_text,
        precision_text=words.precision_text,
        rate_text=words.rate_text,
        seconds_text=words.seconds_text,
        setting_text=words.setting_text,
        sizes_text=words.sizes_text,
        slots_text=words.slots_text,
        format_size=format_size,
        answer_columns=answer_columns,
        answer_row=answer_row,
        count=words.count_text,
        setting_of=_fixed_part,
        speed_provenance=_speed_provenance,
    )


def _fixed_part(model: ModelView) -> str:
    setting = model.answers[0].setting
    return f"{setting.context_tokens:,} tokens and {words.slots_text(setting.slots)} unless varied"


def _speed_provenance(model: ModelView) -> str:
    known = {cell.speed_provenance for cell in model.cells}
    return " or ".join(sorted(known))
