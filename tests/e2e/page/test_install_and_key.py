"""The page without its server, and with one that wants a key."""

from __future__ import annotations

from playwright.sync_api import Browser, BrowserContext, expect

from tests.support.opened_page import ANSWER, DESK, QUESTION, Opened
from tests.support.server import running_server


def test_it_can_be_installed_and_opens_without_the_server(browser: Browser) -> None:
    context = browser.new_context(viewport=DESK)  # type: ignore[arg-type]
    with running_server() as server:
        manifest = server.client.get("/manifest.webmanifest")
        assert manifest.headers["content-type"].startswith("application/manifest+json")
        sizes = {icon["sizes"] for icon in manifest.json()["icons"]}
        assert {"192x192", "512x512"} <= sizes
        for icon in manifest.json()["icons"]:
            assert server.client.get(f"/{icon['src']}").status_code == 200
        opened = Opened(context, server)
        opened.ask(QUESTION)
        opened.answered(ANSWER)
        opened.wait_until(  # everything that the page loaded, and the page
            "Promise.all([location.href, ...performance.getEntriesByType('resource')"
            ".map(one => one.name).filter(name => /(js|css)$/.test(name))]"
            ".map(name => caches.match(name))).then(kept => kept.every(Boolean))"
        )
        assert opened.complaints == []
    opened.load()
    opened.answered(ANSWER)
    expect(opened.page.locator("#banner")).to_contain_text("does not answer")
    context.close()


def test_a_key_opens_the_page_s_requests(context: BrowserContext) -> None:
    with running_server("--api-key", "a-key-for-the-page") as server:
        opened = Opened(context, server)
        page = opened.page
        expect(page.locator("#banner")).to_contain_text("wants a key")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("API key").fill("a-key-for-the-page")
        page.get_by_role("button", name="Done").click()
        expect(page.locator("#banner")).to_be_hidden()
        opened.ask(QUESTION)
        opened.answered(ANSWER)
