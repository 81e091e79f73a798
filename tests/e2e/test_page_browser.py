"""The service's page in a real browser, against a real server with the tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, expect

from tests.support.browser import chromium
from tests.support.server import Server, running_server

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PROVENANCES = {"measured", "calibrated", "estimated", "given"}
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--vram", "1", "--reserve", "1022MiB", "--slots", "2") as started:
        yield started


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


def test_ask_and_ask_on(opened: Opened) -> None:
    opened.ask(QUESTION)
    opened.answered(ANSWER)
    figures = opened.last.locator(".figures")
    expect(figures).to_have_text(
        re.compile(r"^first token \S+ ms · \S+ tok/s · 9 tokens · measured by the server$")
    )
    opened.ask("法国的首都是哪里？")
    opened.answered("法国的首都是巴黎。")
    assert opened.page.locator(".message").count() == 4


def test_an_answer_streams_and_stops(context: BrowserContext, opened: Opened) -> None:
    opened.page.evaluate(ENDLESS)
    opened.ask("hi")
    text = opened.last.locator(".rendered")
    expect(text).not_to_be_empty()
    first = len(text.inner_text())
    opened.page.wait_for_function(
        "least => document.querySelector('.message:last-of-type .text').textContent.length > least",
        arg=first,
    )
    expect(opened.page.locator("#map .tiles .busy")).to_have_count(1)
    opened.page.click("#stop")
    expect(opened.last.locator(".figures")).to_contain_text("stopped")
    assert len(text.inner_text()) > first
    opened.server.wait_for("slots_busy", 0)
    expect(opened.page.locator("#map .tiles .busy")).to_have_count(0)


def test_escape_stops(opened: Opened) -> None:
    opened.page.evaluate(ENDLESS)
    opened.ask("hi")
    expect(opened.last.locator(".rendered")).not_to_be_empty()
    opened.page.keyboard.press("Escape")
    expect(opened.last.locator(".figures")).to_contain_text("stopped")


def test_an_answer_under_way_survives_a_reload(opened: Opened) -> None:
    opened.page.evaluate(ENDLESS)
    opened.ask("hi")
    kept = opened.last.locator(".rendered")
    opened.wait_until(
        "import('/js/store.js').then(module => module.openStore()).then(store => store.all())"
        ".then(all => all[0].messages[1].content.length > 0)"
    )
    opened.load()
    expect(kept).not_to_be_empty()
    expect(opened.last.locator(".figures")).to_contain_text("stopped")
    opened.server.wait_for("slots_busy", 0)


def test_edit_and_regenerate(opened: Opened) -> None:
    opened.ask("Nonsense")
    expect(opened.page.locator("#send")).to_be_visible(timeout=60_000)
    opened.page.locator(".message.user").get_by_role("button", name="Edit").click()
    opened.page.get_by_label("Edit your question").fill(QUESTION)
    opened.page.locator(".edit").get_by_role("button", name="Send").click()
    opened.answered(ANSWER)
    assert opened.page.locator(".message").count() == 2
    asked = opened.server.metric("answers_total")
    opened.last.get_by_role("button", name="Regenerate").click()
    opened.server.wait_for("answers_total", asked + 1)
    opened.answered(ANSWER)
    assert opened.page.locator(".message").count() == 2


def test_conversations_stay_and_travel(browser: Browser, opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    opened.ask(QUESTION)
    opened.answered(ANSWER)
    opened.load()
    opened.answered(ANSWER)
    page.keyboard.press("Alt+N")
    expect(page.locator(".message")).to_have_count(0)
    opened.ask("How much is 1 plus 17?")
    opened.answered("1 plus 17 is 18.")
    names = page.locator("#conversations .open-one")
    assert names.all_inner_texts() == ["How much is 1 plus 17?", QUESTION]
    names.nth(1).click()
    opened.answered(ANSWER)
    with page.expect_download() as download:
        page.click("#export")
    path = tmp_path / "conversations.json"
    download.value.save_as(path)
    assert json.loads(path.read_text("utf-8"))["schema"] == "glm-plan/conversations/1"

    elsewhere = browser.new_context(viewport=DESK)  # type: ignore[arg-type]
    other = Opened(elsewhere, opened.server)
    assert other.page.locator("#conversations li").count() == 0
    other.page.set_input_files("#import-file", path)
    expect(other.page.locator("#conversations li")).to_have_count(2)
    other.page.get_by_role("button", name=QUESTION, exact=True).click()
    other.answered(ANSWER)
    other.page.on("dialog", lambda dialog: dialog.accept())
    other.page.get_by_role("button", name=f"Delete “{QUESTION}”").click()
    expect(other.page.locator("#conversations li")).to_have_count(1)
    assert other.complaints == []
    elsewhere.close()


def test_a_file_of_something_else_is_refused(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    said: list[str] = []
    opened.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
    for text in (
        "[]",
        "{",
        '{"schema":"glm-plan/conversations/1","conversations":[{"messages":7}]}',
    ):
        path.write_text(text)
        opened.page.set_input_files("#import-file", path)
        opened.page.wait_for_timeout(100)
    assert len(said) == 3
    assert opened.page.locator("#conversations li").count() == 0


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
    opened.page.set_input_files("#import-file", files=[_exported(MARKDOWN)])
    expect(page.locator(".code")).to_be_visible()
    look("chat")
    page.click("#open-settings")
    look("settings")
    page.keyboard.press("Escape")
    page.click("#show-planner")
    expect(page.locator("#planner .blocks")).to_be_visible()
    look("planner")
    assert faults == {}


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


def _exported(answer: str) -> dict[str, object]:
    messages = [{"role": "user", "content": answer}, {"role": "assistant", "content": answer}]
    document = {
        "schema": "glm-plan/conversations/1",
        "conversations": [{"title": "", "created": 1, "changed": 1, "messages": messages}],
    }
    buffer = json.dumps(document).encode()
    return {"name": "c.json", "mimeType": "application/json", "buffer": buffer}


def test_markdown_is_drawn_and_code_is_coloured(context: BrowserContext, opened: Opened) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.set_input_files("#import-file", files=[_exported(MARKDOWN)])
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
    page.set_input_files("#import-file", files=[_exported(HOSTILE)])
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
    opened.page.set_input_files("#import-file", files=[_exported(f"{text} end")])
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
