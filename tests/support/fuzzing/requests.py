"""Bodies of HTTP requests, through the application as a server runs it, without sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from tests.support.fuzzing.target import Prepared
from tests.support.tiny import TINY_BUNDLE

_PATHS = ("/v1/chat/completions", "/v1/completions", "/plan/what-if")
_CHAT: dict[str, Any] = {
    "model": "tiny-glm",
    "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "1+1=?"}],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 3,
    "stop": ["a", "b"],
    "logprobs": True,
    "top_logprobs": 2,
    "n": 2,
}
_BODIES: list[dict[str, Any]] = [
    _CHAT,
    _CHAT | {"stream": True, "stream_options": {"include_usage": True}, "n": 1},
    _CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi \x1b"}]}]},
    {"prompt": "12+7 is", "max_tokens": 2, "logit_bias": {"5": -100}, "logprobs": 1},
    {"prompt": [5, 6, 7], "max_tokens": 1, "presence_penalty": 1.5},
    {"model": "chatglm-6b", "vram": ["11"], "policy": "fit", "context": 512, "slots": 2},
    {"gpu": ["rtx 3090"], "ram": ["32"], "precision": "int4", "gpu_blocks": 3},
]


def http_body(folder: Path) -> Prepared:
    """Every answer is JSON or events, refusals have a sentence, and nothing is a fault of ours."""
    from runtime.bundle import open_bundle
    from runtime.bundle_spec import spec_of_bundle
    from runtime.launch_here import launches_here
    from runtime.service.app import create_app
    from runtime.service.served_model import ServedModel
    from runtime.service.settings import ServiceSettings
    from scheduler.planner import make_plan
    from scheduler.request import PlanRequest

    bundle = open_bundle(TINY_BUNDLE)
    spec = spec_of_bundle(bundle)
    plan = make_plan(PlanRequest(spec, vram_bytes=(), context=64))
    loop = asyncio.new_event_loop()
    loaded = asyncio.Event()
    served = ServedModel(plan, bundle, launches_here(plan, spec, bundle), 4)
    app = create_app(
        served, ServiceSettings(), lambda: loop.call_soon_threadsafe(loaded.set) and None
    )

    async def start() -> Any:
        lifespan = app.router.lifespan_context(app)
        await lifespan.__aenter__()
        await asyncio.wait_for(loaded.wait(), 60)
        return lifespan

    loop.run_until_complete(start())
    transport = httpx.ASGITransport(app)
    client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def read(content: bytes) -> None:
        path = _PATHS[0] if b"messages" in content else _PATHS[1 if b"prompt" in content else 2]
        headers = {"content-type": "application/json"}
        answer = loop.run_until_complete(client.post(path, content=content, headers=headers))
        if answer.status_code >= 500:
            raise AssertionError(f"{answer.status_code}: {answer.text[:300]}")
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"].endswith((".", "?")), answer.text

    return read, [json.dumps(one).encode() for one in _BODIES]
