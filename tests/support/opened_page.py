"""The service's page, open in a real browser, and everything that went wrong meanwhile."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from tests.support.server import Server

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PROVENANCES = {"measured", "calibrated", "estimated", "given"}
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
MARKDOWN = """# Title

Some **bold**, `code`, a [link](https://example.org) and H<sub>2</sub>O.

| a | b |
| --- | --- |
| 1 | 2 |

```python
def answer() -> int:
    return 42  # the answer
```
"""
# Greedy, this bias repeats one token until the context is full: an answer that takes seconds.
ENDLESS = """() => {
  const ask = window.fetch;
  window.fetch = (path, options = {}) => {
    if (!options.body) return ask(path, options);
    const body = JSON.stringify({ ...JSON.parse(options.body), logit_bias: { 838: 100 } });
    return ask(path, { ...options, body });
  };
}
"""

expect.set_options(timeout=60_000)  # machines that run tests are busy


class Opened:
    """The page, and everything that went wrong or out while it was open."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.server = server
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page = page = context.new_page()
        page.on("console", lambda one: self.complaints.append(f"{one.text} {one.location}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._see(request.url))
        self.load()
        page.evaluate(
            "localStorage.setItem('glm-plan/preferences/1',"
            " JSON.stringify({language: 'en', sampling: {temperature: 0}}))"
        )
        self.load()

    def _see(self, url: str) -> None:
        if not url.startswith((self.server.url, "blob:")):
            self.foreign.append(url)

    def load(self) -> None:
        self.page.goto(self.server.url)
        expect(self.page.locator("html[data-started]")).to_be_attached()

    def ask(self, text: str) -> None:
        self.page.fill("#question", text)
        self.page.press("#question", "Enter")

    @property
    def last(self) -> Locator:
        return self.page.locator(".message").last

    def wait_until(self, script: str) -> None:
        """Wait for a promise of true; Playwright's own waiting takes any promise for true."""
        for _ in range(300):
            if self.page.evaluate(script):
                return
            self.page.wait_for_timeout(100)
        pytest.fail(script)

    def answered(self, text: str) -> None:
        expect(self.last.locator(".rendered")).to_have_text(text)
        expect(self.page.locator("#send")).to_be_visible()

    def drawer(self, name: str) -> Locator:
        return self.page.locator(f"#{name}.drawer")


def exported(answer: str) -> dict[str, object]:
    """A file to import, with one conversation that holds this text as question and as answer."""
    messages = [{"role": "user", "content": answer}, {"role": "assistant", "content": answer}]
    document = {
        "schema": "glm-plan/conversations/1",
        "conversations": [{"title": "", "created": 1, "changed": 1, "messages": messages}],
    }
    buffer = json.dumps(document).encode()
    return {"name": "c.json", "mimeType": "application/json", "buffer": buffer}
