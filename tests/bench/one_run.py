"""One run of a bundle as a plan says, and what it took: a child process of the benches.

`python -m tests.bench.one_run` reads its question as JSON from stdin and answers in JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.cli.session import open_session
from runtime.engine import Generation
from runtime.launch import ram_needed
from runtime.sampling import Sampling
from scheduler.calibrated import with_calibration
from scheduler.cost import StageParts, decode_seconds, device_kind
from scheduler.memory import stage_memory
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.probe import probe_host
from scheduler.request import PlanRequest


@dataclass(frozen=True)
class Question:
    """A configuration, and how each slot fills its context: a prompt, then one token a step."""

    bundle: str
    gpu_precision: Precision
    cpu_precision: Precision
    gpu_blocks: int
    context: int
    prompt_tokens: int
    new_tokens: int
    slots: int
    predict_step: bool  # by this machine's calibration
    backend: str = "mnn:cpu"  # of all stages


def answer(question: Question) -> dict[str, object]:
    """Run it; bytes as predicted and as Linux counts them, seconds of prefill and of each step."""
    bundle = open_bundle(Path(question.bundle))
    spec = spec_of_bundle(bundle)
    request = PlanRequest(
        spec,
        gpu_precision=question.gpu_precision,
        cpu_precision=question.cpu_precision,
        gpu_blocks=question.gpu_blocks,
        context=question.context,
        slots=question.slots,
        # Stages planned for a GPU fall back to MNN unless ONNX Runtime is named for them.
        gpu_backend=None if question.backend == "mnn:cpu" else question.backend,
        cpu_backend=question.backend,
    )
    plan = make_plan(request, probe_host())
    ids = [7 + number % 50 for number in range(question.prompt_tokens)]
    generation = Generation()
    with open_session(plan, spec, bundle) as session:
        streams = [
            session.engine.submit(ids, Sampling(), _most_needed(spec.blocks, later))
            for later in range(question.slots - 1, 0, -1)
        ]
        streams.append(
            session.engine.submit(ids, Sampling(), question.new_tokens, generation=generation)
        )
        for stream in streams:
            for _ in stream:
                pass
        workers = session.engine.pipeline.process_ids
        return {
            "predicted_bytes": ram_needed(plan, spec, session.launches),
            "after_steps_bytes": _of_all("Pss"),
            # Hidden states and pages of libraries.
            "shared_bytes": _of_all("Pss_File", "Pss_Shmem"),
            "stages": [
                {
                    "predicted_bytes": stage_memory(
                        spec,
                        device_kind("cpu", launch.backend),
                        len(stage.blocks),
                        stage.precision,
                        stage.lm_head_precision,
                        question.context,
                        question.slots,
                        launch.threads,
                    ).total_bytes,
                    # Hidden states are counted once for all; pages of libraries are shared.
                    "peak_bytes": _counted(pid, "status", "VmHWM")
                    - _counted(pid, "status", "RssShmem")
                    - _counted(pid, "status", "RssFile")
                    + mapped_bytes(pid, bundle.path),
                }
                for stage, launch, pid in zip(plan.stages, session.launches, workers, strict=True)
            ],
            "new_tokens": len(generation.token_ids),
            "prefill_seconds": generation.prefill.total_seconds if generation.prefill else None,
            "step_seconds": statistics.median(step.total_seconds for step in generation.decode),
            "predicted_step_seconds": _step(question, spec.blocks, spec, request)
            if question.predict_step
            else None,
        }


def mapped_bytes(pid: int, folder: Path) -> int:
    """Resident bytes of a bundle's files in a process: weights that are read where they lie."""
    total, counting = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            counting = " ".join(rest[4:]).startswith(str(folder.resolve()))
        elif counting and first == "Rss:":
            total += int(rest[0]) * 1024
    return total


def _most_needed(blocks: int, later: int) -> int:
    """Tokens of an answer that ends early in the last of so many later prompts.

    Then most memory is needed: nobody decodes while the outputs of that prompt's blocks pile up.
    Until then there is one step between two blocks of a prompt.
    """
    return 2 + blocks * (later - 1)


def _step(question: Question, blocks: int, spec: ModelSpec, request: PlanRequest) -> float:
    """Predict a step with every stage on the CPU, where this bench runs them all."""
    _host, speeds = with_calibration(probe_host(), None, None, (), True, 1)
    first, second = range(question.gpu_blocks), range(question.gpu_blocks, blocks)
    gpu, cpu, backend = request.gpu_precision, request.cpu_precision, question.backend
    stages = [StageParts("cpu", gpu, first, None, backend)] if first else []
    stages.append(StageParts("cpu", cpu, second, cpu, backend))
    assert speeds is not None, "run glm-plan calibrate first"
    return decode_seconds(stages, spec, speeds, question.context).total_seconds


def _of_all(*keys: str) -> int:
    """Bytes of this process and its children by Linux; of shared pages each has its portion."""
    process = psutil.Process()
    tree = [process, *process.children(recursive=True)]
    return sum(_counted(one.pid, "smaps_rollup", key) for one in tree for key in keys)


def _counted(pid: int, file: str, key: str) -> int:
    text = Path(f"/proc/{pid}/{file}").read_text(encoding="ascii")
    return int(text.split(f"\n{key}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    out = os.dup(1)
    result = answer(Question(**json.loads(sys.stdin.read())))
    with os.fdopen(out, "w") as pipe:
        json.dump(result, pipe)
