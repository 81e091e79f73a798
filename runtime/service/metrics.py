"""Prometheus metrics of one server, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.launch import StageLaunch
from runtime.service.served_model import ServedModel
from runtime.stream import Generation

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters that routes and answers raise; gauges are read from the model when asked for."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody plots them
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "HTTP requests", "path", "status")
        self.first_token = self._histogram("time_to_first_token_seconds", "from the request")
        self.between_tokens = self._histogram("inter_token_seconds", "between two tokens")
        self._tokens = self._counter("tokens", "tokens of prompts and answers", "kind")
        self._answers = self._counter(
            "answers", "answers begun in a slot, by how they ended", "end"
        )
        self._stage = self._counter("stage_seconds", "computing", "device", "phase")
        self._lm_head = self._counter("lm_head_seconds", "computing logits")
        self._hop = self._counter("hop_seconds", "crossing processes, copying hidden states")
        gauges = {
            "slots": "slots in all",
            "slots_busy": "slots in use",
            "slots_usable": "slots that take new answers, fewer while memory is short",
            "queue_waiting": "answers that wait for a slot",
            "queue_limit": "answers that may wait",
            "ready": "1 when answers can be had",
            "degraded": "1 when a device or host that failed has fewer blocks than planned",
        }
        self._gauges = {
            name: Gauge(f"glm_plan_{name}", text, registry=self.registry)
            for name, text in gauges.items()
        }
        self._blocks = self._device_gauge("resident_blocks", "blocks on a device")
        self._planned = self._device_gauge("planned_bytes", "estimated by the plan")
        self._actual = self._device_gauge("actual_bytes", "resident memory of the worker, measured")

    def count_answer(
        self, generation: Generation, tokens: int, end: str, launches: list[StageLaunch]
    ) -> None:
        """Add what one answer measured; `end` is stop, length or cancelled."""
        self._tokens.labels("prompt").inc(generation.prompt_tokens if generation.prefill else 0)
        self._tokens.labels("completion").inc(tokens)
        self._answers.labels(end).inc()
        steps = [("prefill", generation.prefill)] if generation.prefill else []
        for phase, step in [*steps, *(("decode", one) for one in list(generation.decode))]:
            # Stages that are not there any more count no longer.
            for launch, seconds in zip(launches, step.stage_seconds, strict=False):
                self._stage.labels(launch.device, phase).inc(seconds)
            self._lm_head.inc(step.lm_head_seconds)
            self._hop.inc(max(step.hop_seconds, 0.0))

    def text(self, served: ServedModel) -> bytes:
        """The metrics in Prometheus' text format."""
        admission = served.admission
        values: Iterable[float] = (
            admission.slots,
            admission.busy,
            admission.usable,
            admission.waiting,
            admission.queue,
            served.state in ("ready", "degraded"),
            bool(served.moved),
        )
        for gauge, value in zip(self._gauges.values(), values, strict=True):
            gauge.set(value)
        for per_device in (self._blocks, self._planned, self._actual):
            per_device.clear()
        for stage, launch, rss_bytes in served.running():
            self._blocks.labels(stage.device).set(len(launch.block_files))
            self._planned.labels(stage.device).set(stage.memory.total_bytes + stage.host_bytes)
            self._actual.labels(stage.device).set(rss_bytes)
        return generate_latest(self.registry) + generate_latest(_Restarts(served))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"glm_plan_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"glm_plan_{name}", text, buckets=_SECONDS, registry=self.registry)

    def _device_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"glm_plan_{name}", text, ("device",), registry=self.registry)


class _Restarts(Collector):
    """What the engine counts itself."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        """The counters as they are now."""
        lasting = self._served.lasting
        for name, text, value in (
            ("engine_restarts", "processes of the engine that were started anew", lasting.restarts),
            ("replays", "answers continued in another process", lasting.replays),
            ("replayed_tokens", "tokens computed again for that", lasting.replayed_tokens),
        ):
            yield CounterMetricFamily(f"glm_plan_{name}", text, value)
        by_stage = CounterMetricFamily(
            "glm_plan_stage_restarts", "workers that were started anew", labels=["device"]
        )
        for launch, count in zip(self._served.launches, lasting.stage_restarts, strict=False):
            by_stage.add_metric([launch.device], count)
        yield by_stage
