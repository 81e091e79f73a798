"""The terminal chat's other end: a server that speaks OpenAI's API, ours or another."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from runtime.sampling import Sampling
from scheduler.errors import EngineError, UserInputError

_OVERFLOW = "context_length_exceeded"
_CONNECT_SECONDS = 10.0


class ServerTalk:
    """Talk with the server at `url`; finished rounds are sent with every question.

    Raises UserInputError for what the server refuses and EngineError when it cannot be reached.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        sampling: Sampling,
        max_new_tokens: int,
        system: str | None,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise UserInputError(
                "--server needs the serve extra; install it with `pip install 'glm-plan[serve]'`."
            ) from None
        if not url.startswith(("http://", "https://")):
            raise UserInputError(
                f"--server is {url}; expected a URL such as http://localhost:8080."
            )
        self.dropped_rounds = 0
        self.url = url
        self._system = [{"role": "system", "content": system}] if system else []
        self._rounds: list[tuple[str, str]] = []
        self._parameters = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "max_tokens": max_new_tokens,
        }
        self._client = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        )
        with self._reached():
            self.model = str(self._json("/v1/models")["data"][0]["id"])
        self._times: list[float] = []
        self._tokens = 0

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def plan(self) -> dict[str, Any]:
        """The plan that the server runs by."""
        with self._reached():
            document: dict[str, Any] = self._json("/plan")["plan"]
        return document

    def ask(self, question: str) -> Generator[str]:
        """Yield the answer's text as it comes; an interrupted one counts as far as it came."""
        pieces: list[str] = []
        try:
            for text in self._answer(question):
                pieces.append(text)
                yield text
        finally:
            if pieces:
                self._rounds.append((question, "".join(pieces)))

    def reset(self) -> None:
        """Forget every round."""
        self._rounds.clear()
        self.dropped_rounds = 0

    def summary(self) -> str:
        """Tokens and speed of the last answer, measured here."""
        if not self._times:
            return "no tokens"
        started, first, last = self._times[0], self._times[1], self._times[-1]
        line = f"{self._tokens} tokens, first after {(first - started) * 1000:.0f} ms"
        if self._tokens > 1 and last > first:
            line += f", {(self._tokens - 1) / (last - first):.1f} tok/s"
        return f"{line} (measured, with the network)"

    def _answer(self, question: str) -> Iterator[str]:
        for dropped in range(len(self._rounds) + 1):
            self.dropped_rounds = dropped
            with self._reached(), self._stream(self._rounds[dropped:], question) as response:
                if response.status_code == 200:
                    yield from self._pieces(response)
                    return
                response.read()
                error = _error_of(response)
            if error.get("code") != _OVERFLOW or dropped == len(self._rounds):
                raise UserInputError(str(error.get("message")))

    def _stream(self, rounds: list[tuple[str, str]], question: str) -> Any:
        messages = list(self._system)
        for asked, answer in rounds:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": question})
        body = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._parameters,
        }
        self._times, self._tokens = [time.perf_counter()], 0
        return self._client.stream("POST", "/v1/chat/completions", json=body)

    def _pieces(self, response: Any) -> Iterator[str]:
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise EngineError(str(chunk["error"].get("message")))
            self._tokens = (chunk.get("usage") or {}).get("completion_tokens", self._tokens)
            for choice in chunk["choices"]:
                if text := choice["delta"].get("content"):
                    self._times.append(time.perf_counter())
                    yield text
        if len(self._times) == 1:
            self._times.append(time.perf_counter())

    def _json(self, path: str) -> Any:
        response = self._client.get(path)
        if response.status_code != 200:
            raise UserInputError(f"{self.url}: {_error_of(response).get('message')}")
        return response.json()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what goes wrong on the way into one sentence."""
        import httpx

        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineError(f"{self.url} cannot be asked: {error}.") from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise EngineError(f"{self.url} does not speak OpenAI's API.") from None


def _error_of(response: Any) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = None
    return error if isinstance(error, dict) else {"message": f"status {response.status_code}."}
