"""Chat templates render as transformers renders them, and hostile ones are stopped."""

from __future__ import annotations

import os
from pathlib import Path

import jinja2
import psutil
import pytest

from runtime import chat_template, template_process
from runtime.chat_template import ChatTemplate
from runtime.export.builtin_templates import CHATGLM2, CHATGLM3, GLM4
from scheduler.errors import CheckpointError, UserInputError

FOLDER = Path(__file__).parents[1] / "data" / "chat_templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
TEMPLATES |= {"chatglm2": CHATGLM2, "chatglm3": CHATGLM3, "glm-4": GLM4}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wetter & 天气 <here>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "time", "description": "", "parameters": {}}},
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
SYSTEM = {"role": "system", "content": " Be terse.\n"}
QUESTION = {"role": "user", "content": "  Wie ist das Wetter? 天气 <b>&\n"}
CONVERSATIONS = {
    "question": [QUESTION],
    "system": [SYSTEM, QUESTION],
    "rounds": [SYSTEM, QUESTION, {"role": "assistant", "content": " Rain. "}, QUESTION],
    "thought": [
        QUESTION,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nRain."},
        QUESTION,
    ],
    "tool": [
        SYSTEM,
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "content": '{"rain": true}'},
        {"role": "assistant", "content": "It rains."},
        QUESTION,
    ],
}


@pytest.fixture(scope="module")
def templates():
    opened = {name: ChatTemplate(source) for name, source in TEMPLATES.items()}
    yield opened
    for template in opened.values():
        template.close()


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering_is_that_of_transformers(templates, name, conversation):
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="needs PyTorch")
    messages = CONVERSATIONS[conversation]

    def expected(**options):
        source = TEMPLATES[name]
        try:
            rendered = utils.render_jinja_template([messages], chat_template=source, **options)
        except jinja2.TemplateError as error:
            return f"refused: {str(error).rstrip('.')}."
        return rendered[0][0]

    def found(**options):
        try:
            return templates[name].render(messages, special_texts=SPECIAL, **options)
        except UserInputError as error:
            return f"refused: {str(error).partition(': ')[2]}"

    for tools in (None, TOOLS):
        for prompt in (True, False):
            options = {"tools": tools, "add_generation_prompt": prompt}
            assert found(**options) == expected(**options, **SPECIAL)


ROUNDS = CONVERSATIONS["rounds"]


def test_rounds_of_smollm2(templates):
    assert templates["smollm2"].render(ROUNDS) == (
        "<|im_start|>system\n Be terse.\n<|im_end|>\n"
        "<|im_start|>user\n  Wie ist das Wetter? 天气 <b>&\n<|im_end|>\n"
        "<|im_start|>assistant\n Rain. <|im_end|>\n"
        "<|im_start|>user\n  Wie ist das Wetter? 天气 <b>&\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_rounds_of_chatglm2_are_numbered_from_one(templates):
    short = [{"role": one, "content": text} for one, text in (("user", "a"), ("assistant", "b"))]
    assert templates["chatglm2"].render([*short, short[0]]) == (
        "[gMASK]sop[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：a\n\n答："
    )


def test_a_template_may_refuse_messages(templates):
    with pytest.raises(UserInputError, match="refuses these messages: roles must take turns"):
        templates["instructions"].render([QUESTION, QUESTION])


def test_one_process_renders_again_and_again(templates):
    first = templates["smollm2"].render(ROUNDS)
    process, _ = templates["smollm2"]._child
    assert templates["smollm2"].render(ROUNDS) == first
    assert templates["smollm2"]._child[0].pid == process.pid


def test_an_ended_process_is_replaced(templates):
    first = templates["smollm2"].render(ROUNDS)
    process, _ = templates["smollm2"]._child
    process.kill()
    process.join()
    assert templates["smollm2"].render(ROUNDS) == first


BOMBS = {
    "long range": "{% for a in range(10**9) %}{% endfor %}",
    "nested loops": "{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}",
    "much output": "{% for a in range(9**5) %}{{ 'xxxx' * 9**5 }}{% endfor %}",
    "text times number": "{{ 'x' * 10**9 }}",
    "list times number": "{{ ([1] * 10**9) | length }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "wide format": "{{ '%1000000000d' % 1 }}",
    "center": "{{ 'a' | center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep nesting": "{{" + "(" * 5000 + ")" * 5000 + "}}",
    "lipsum": "{{ lipsum(n=10**6) }}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_stopped(bomb, monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 1.0)
    template = ChatTemplate(BOMBS[bomb])
    with pytest.raises(CheckpointError, match=r"chat template .* was stopped") as refused:
        template.render([QUESTION])
    assert "\n" not in str(refused.value)
    if template._child is not None:
        memory = psutil.Process(template._child[0].pid).memory_info()
        assert memory.rss < template_process.MAX_ADDED_BYTES
    template.close()


@pytest.mark.skipif(os.name == "nt", reason="the system sets no limit of memory there")
def test_memory_is_bounded_while_it_is_asked_for():
    template = ChatTemplate("{{ ('x' * (600 * 2**20)) | length }}")
    with pytest.raises(CheckpointError, match="more than any prompt needs"):
        template.render([QUESTION])
    template.close()


@pytest.mark.parametrize(
    "source",
    [
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ tojson.__code__ }}{{ strftime_now.__code__.co_consts }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__class__=1) }}",
        "{{ dict.mro() }}",
    ],
)
def test_python_s_inside_is_out_of_reach(source):
    template = ChatTemplate(source)
    with pytest.raises((CheckpointError, UserInputError), match="chat template"):
        template.render([QUESTION])
    template.close()


def test_attributes_print_nothing():
    template = ChatTemplate(
        "{{ '{0.__class__}'.format(messages) }}{{ ''.__class__ }}{{ raise_exception.__globals__ }}"
    )
    assert template.render([QUESTION]) == ""
    template.close()


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% for a in b %}", "{% nonsense %}"])
def test_a_template_that_is_none_is_refused_with_its_line(source):
    with pytest.raises(CheckpointError, match=r"chat template is wrong \(line 1: "):
        chat_template.check_template(source)
