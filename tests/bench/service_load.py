"""Load by Locust (https://locust.io), which nobody here wrote: what its users ask our server.

`pip install locust`, start `glm-plan serve --slots 4`, then
`locust -f tests/bench/service_load.py --host http://localhost:8080 --headless -u 8 -r 4 -t 30s`.
Answers that are not the tiny model's count as failures.
"""

from __future__ import annotations

import json

from locust import HttpUser, between, task  # type: ignore[import-not-found]

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


class Asker(HttpUser):  # type: ignore[misc]
    """Somebody who asks for an answer in one piece, and three times as often for a stream."""

    wait_time = between(0.0, 0.2)

    def ask(self, name: str, **more: object) -> str:
        """What came back, after Locust has taken its time."""
        body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **more}
        with self.client.post(
            "/v1/chat/completions", json=body, name=name, catch_response=True
        ) as response:
            text = answer_of(response.text)
            if text != ANSWER:
                response.failure(f"{response.status_code}: {text!r}")
            return text

    @task
    def whole(self) -> None:
        """One JSON document."""
        self.ask("chat, whole")

    @task(3)
    def streamed(self) -> None:
        """Server-sent events."""
        self.ask("chat, streamed", stream=True)

    @task
    def look(self) -> None:
        """What a load balancer does."""
        self.client.get("/health")


def answer_of(body: str) -> str:
    """The text of a whole or of a streamed answer."""
    if not body.startswith("data:"):
        choices = json.loads(body).get("choices", [])
        return "".join(choice["message"]["content"] for choice in choices)
    events = [line[len("data: ") :] for line in body.splitlines() if line.startswith("data: ")]
    deltas = [choice["delta"] for one in events[:-1] for choice in json.loads(one)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
