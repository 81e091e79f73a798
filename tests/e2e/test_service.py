"""A real server and the official client: streams, usage, stops, seeds, logprobs, errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.support.server import Server, running_server
from tests.support.tiny import questions

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--gpu-blocks", "3", "--vram", "4", "--slots", "4") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def ask(client: openai.OpenAI, text: str = QUESTION, **fields: object) -> object:
    return client.chat.completions.create(
        model="tiny-glm",
        messages=[{"role": "user", "content": text}],
        **{"temperature": 0, **fields},  # type: ignore[arg-type]
    )


def test_a_whole_answer_with_its_usage(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert [stage["blocks"] for stage in answer.timings[0]["stages"]] == ["0-2", "3-7"]


def test_a_stream_ends_with_usage_and_done(client: openai.OpenAI, server: Server) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == ask(client).usage.completion_tokens
    raw = server.chat(QUESTION, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    events = raw.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_earlier_messages_and_a_system_text_are_heard(client: openai.OpenAI) -> None:
    talk = [
        {"role": "user", "content": "法国的首都是哪里？"},
        {"role": "assistant", "content": "法国的首都是巴黎。"},
        {"role": "user", "content": [{"type": "text", "text": "那日本呢？"}]},
    ]
    answer = client.chat.completions.create(model="tiny-glm", messages=talk, temperature=0)
    assert answer.choices[0].message.content == "日本的首都是东京。"


@pytest.mark.parametrize("stop", [" France", "nce is P", ["zzz", "ital o"]])
def test_stops_span_tokens(client: openai.OpenAI, stop: str | list[str]) -> None:
    first = stop if isinstance(stop, str) else stop[1]
    answer = ask(client, stop=stop, logprobs=True)
    choice = answer.choices[0]
    assert choice.message.content == ANSWER.partition(first)[0]
    assert choice.finish_reason == "stop"
    shown = "".join(one.token for one in choice.logprobs.content).strip()
    assert shown.startswith(choice.message.content)
    pieces = [c.choices[0].delta.content or "" for c in ask(client, stop=stop, stream=True)]
    assert "".join(pieces) == choice.message.content


def test_the_token_limit_is_exact(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, **{name: 3})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 3


def test_a_seed_repeats_and_choices_differ(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str]:
        answer = ask(client, "你好", n=3, seed=seed, temperature=2, max_tokens=12)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    assert texts(5) == texts(5)
    assert len({*texts(5), *texts(-6)}) > 1


def test_log_probabilities_add_up(client: openai.OpenAI) -> None:
    content = ask(client, logprobs=True, top_logprobs=20).choices[0].logprobs.content
    assert b"".join(bytes(one.bytes) for one in content).decode().strip() == ANSWER
    for one in content:
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob)
        assert sum(math.exp(top.logprob) for top in one.top_logprobs) <= 1 + 1e-6
        assert one.top_logprobs == sorted(one.top_logprobs, key=lambda top: -top.logprob)
    streamed = [
        one
        for chunk in ask(client, logprobs=True, top_logprobs=20, stream=True)
        if chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert [one.token for one in streamed] == [one.token for one in content]


def test_bias_and_penalties_change_the_answer(client: openai.OpenAI, server: Server) -> None:
    first = ask(client, logprobs=True, max_tokens=1).choices[0].logprobs.content[0]
    tokens = server.client.post("/tokenize", json={"content": "The capital"}).json()["tokens"]
    banned = ask(client, logit_bias={str(tokens[0]): -100}, logprobs=True, max_tokens=1)
    assert banned.choices[0].logprobs.content[0].token != first.token
    forced = ask(client, logit_bias={str(tokens[0]): 100}, max_tokens=5, frequency_penalty=0)
    assert forced.choices[0].message.content == "The The The The The"
    likeliest = ask(client, temperature=2, extra_body={"min_p": 1.0})
    assert likeliest.choices[0].message.content == ANSWER


def test_answers_beside_each_other_are_those_alone(client: openai.OpenAI) -> None:
    listed = [one for one in questions() if not one["history"]][:12]
    texts = [one["question"] for one in listed]
    alone = [ask(client, text).choices[0].message.content for text in texts]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda text: ask(client, text), texts))
    assert [one.choices[0].message.content for one in together] == alone


def test_older_completions_continue_a_text(client: openai.OpenAI) -> None:
    whole = client.completions.create(
        model="tiny-glm", prompt=QUESTION, temperature=0, logprobs=2, max_tokens=30
    )
    assert whole.choices[0].text == ANSWER
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens
    chunks = client.completions.create(
        model="tiny-glm", prompt=QUESTION, temperature=0, max_tokens=30, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"extra_body": {"mirostat": 2}}, "mirostat", "unknown parameter"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"stop": ["a", ""]}, "stop.1", "at least 1 character"),
        ({"n": 9}, "n", "less than or equal to 8"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "has tokens 0 to"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"max_tokens": 5000}, "messages", "too many"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, object], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        ask(client, **fields)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_an_overflow_says_by_how_much(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="too many") as refused:
        ask(client, "word " * 5000)
    assert refused.value.code == "context_length_exceeded"


def test_another_model_does_not_exist(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny-glm'"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    assert [one.id for one in client.models.list()] == ["tiny-glm"]
    assert client.models.retrieve("tiny-glm").id == "tiny-glm"


def test_tokens_go_there_and_back(server: Server) -> None:
    tokens = server.client.post("/tokenize", json={"content": "法国 is <eop> here"}).json()
    text = server.client.post("/detokenize", json=tokens).json()
    assert text["content"].strip() == "法国 is <eop> here"


def test_plan_status_and_what_if(server: Server) -> None:
    document = server.client.get("/plan").json()
    assert document["plan"]["gpu_blocks"] == 3
    gpu, cpu = document["stages"]
    assert gpu["asked_backend"] == "mnn:cuda"
    assert gpu["backend"] == "mnn:cpu"
    assert cpu["actual_bytes"] > 1 << 20
    server.chat(QUESTION)
    status = server.client.get("/status").json()
    step = status["last_step"]
    assert step["total"] == pytest.approx(sum(step["stages"]) + step["lm_head"] + step["hops"])
    assert (status["slots"], len(step["stages"])) == (4, 2)
    health = server.client.get("/health")
    assert health.json()["degraded"] == ["gpu0: asked for CUDA, running on CPU"]
    assert any("pip install 'glm-plan[gpu]' adds" in line for line in server.lines)
    asked = {"model": "chatglm-6b", "vram": ["11"]}
    planned = server.client.post("/plan/what-if", json=asked).json()
    assert (planned["gpu_blocks"], planned["cpu_blocks"]) == (23, 5)
    refused = server.client.post("/plan/what-if", json={"model": "chatglm-6", "vram": ["11"]})
    assert refused.status_code == 400
    assert "chatglm-6b" in refused.json()["error"]["message"]


def test_headers_protect_the_browser(server: Server) -> None:
    answer = server.client.get("/health")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (
        "access-control-allow-origin"
        not in server.client.get("/health", headers={"Origin": "https://evil.example"}).headers
    )
    foreign = server.client.get("/v1/models", headers={"Host": "evil.example"})
    assert foreign.status_code == 403
    too_large = server.client.post("/tokenize", json={"content": "x" * (5 << 20)})
    assert too_large.status_code == 413


def test_pictures_and_tools_in_messages_are_refused(server: Server) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    for message, param in (
        ({"role": "user", "content": picture}, "messages.0.content.0.type"),
        ({"role": "user", "content": "x", "name": "me"}, "messages.0.name"),
        ({"role": "tool", "content": "x"}, "messages.0.role"),
    ):
        answer = server.client.post("/v1/chat/completions", json={"messages": [message]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_bodies_that_are_no_requests(server: Server) -> None:
    path = "/v1/chat/completions"
    for body in (b"", b"{", b"[]", b'{"messages": []}', b"\xff\xfe", b"[" * 100_000):
        answer = server.client.post(
            path, content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400, body[:20]
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert server.client.get(path).status_code == 405
    assert server.client.post("/nowhere").status_code in (404, 405)
