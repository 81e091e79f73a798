"""A browser, a server with the tiny model, and its page, open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.support.browser import chromium
from tests.support.opened_page import DESK, Opened
from tests.support.server import Server, running_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--vram", "1", "--reserve", "1022MiB", "--slots", "2") as started:
        yield started


@pytest.fixture
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    viewport, scheme = getattr(request, "param", (DESK, "light"))
    context = browser.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True)
    yield context
    context.close()


@pytest.fixture
def opened(context: BrowserContext, server: Server) -> Iterator[Opened]:
    opened = Opened(context, server)
    yield opened
    assert opened.complaints == []
    assert opened.foreign == []
