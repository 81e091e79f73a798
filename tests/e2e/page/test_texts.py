"""What answers and prompts may contain: Markdown, code, and texts that mean harm."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.support.opened_page import MARKDOWN, Opened, exported

HOSTILE = """<script>window.harmed = 1</script><img src=x onerror="window.harmed = 2">
<iframe src="data:text/html,<script>parent.harmed = 3</script>"></iframe>
<a href="javascript:window.harmed = 4">one</a>

[two](javascript:window.harmed=5) <javascript:window.harmed=11> [six](https://example.org "t")
[three](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)
![four](https://example.org/spy.png)

<style>body { display: none }</style>
<form action="https://example.org"><input name="key"></form> <b onclick="window.harmed = 6">five</b>
<svg onload="window.harmed = 7"><math><mi//xlink:href="data:x,<script>window.harmed=8</script>">

```html
<script>window.harmed = 9</script>
```

``` "><img/onerror=window.harmed=10/src=x>
x
```
"""


def test_markdown_is_drawn_and_code_is_coloured(context: BrowserContext, opened: Opened) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.set_input_files("#import-file", files=[exported(MARKDOWN)])
    answer = opened.last.locator(".rendered")
    expect(answer.locator("h1")).to_have_text("Title")
    expect(answer.locator("sub")).to_have_text("2")
    expect(answer.locator("td")).to_have_count(2)
    expect(answer.locator("code .hljs-keyword").first).to_have_text("def")
    link = answer.locator("a")
    assert link.get_attribute("rel") == "noopener noreferrer"
    answer.get_by_role("button", name="Copy code").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    copied = opened.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("def answer() -> int:\n    return 42")


def test_hostile_texts_do_nothing(opened: Opened) -> None:
    page = opened.page
    page.set_input_files("#import-file", files=[exported(HOSTILE)])
    answer = opened.last.locator(".rendered")
    expect(answer).to_contain_text("window.harmed = 1")  # shown as text
    page.wait_for_timeout(300)
    assert page.evaluate("window.harmed") is None
    assert (
        answer.evaluate(
            "one => one.querySelectorAll('script,img,iframe,style,form,input,svg,math').length"
        )
        == 0
    )
    hrefs = answer.evaluate("one => [...one.querySelectorAll('[href]')].map(a => a.href)")
    assert hrefs == ["https://example.org/"]
    expect(answer).to_contain_text("[image: four]")
    attributes = answer.evaluate(
        "one => [...new Set([...one.querySelectorAll('*')].flatMap(e => e.getAttributeNames()))]"
    )
    assert set(attributes) <= {
        "class",
        "href",
        "rel",
        "role",
        "tabindex",
        "target",
        "type",
        "start",
    }


@pytest.mark.parametrize("text", ["> " * 5000, "[" * 20_000, "_a_ " * 8000, "<a " * 8000])
def test_texts_that_trouble_parsers_are_drawn(opened: Opened, text: str) -> None:
    opened.page.set_input_files("#import-file", files=[exported(f"{text} end")])
    expect(opened.last.locator(".rendered")).to_contain_text("end")
    assert opened.page.locator(".message").count() == 2


def test_a_hostile_prompt_of_200_kb_is_refused_in_words(
    context: BrowserContext, opened: Opened
) -> None:
    text = HOSTILE * (200_000 // len(HOSTILE) + 1)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.evaluate("text => navigator.clipboard.writeText(text)", text)
    opened.page.focus("#question")
    opened.page.keyboard.press("Control+V")
    opened.page.keyboard.press("Enter")
    expect(opened.last.locator(".fault")).to_contain_text("too many")
    shown = opened.page.locator(".message.user .text")
    assert shown.evaluate("(one, text) => one.textContent === text", text)
    assert shown.evaluate("one => one.childElementCount") == 0
    box = shown.bounding_box()
    assert box is not None
    assert box["height"] < 400  # folded
    opened.page.get_by_role("button", name="Show all").click()
    assert opened.page.evaluate("window.harmed") is None
    refused = [text for text in opened.complaints if "status of 400" in text]
    opened.complaints = [text for text in opened.complaints if text not in refused]
    opened.load()
    expect(opened.page.locator(".message")).to_have_count(2)
