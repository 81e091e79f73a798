"""docs/numbers.md: its tables are the planner's own numbers, and stay so.

`python -m tests.scheduler.test_numbers_doc` prints the tables as they should be.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.choose import USABLE_TOKENS_PER_SECOND
from scheduler.estimates import (
    CPU_BANDWIDTH_SHARE,
    CPU_FLOPS_SHARE,
    GPU_BANDWIDTH_SHARE,
    GPU_BLOCK_OVERHEAD_SECONDS,
    GPU_FLOPS_SHARE,
    GPU_QUANTISED_SHARE,
    HOP,
    estimated_speed,
)
from scheduler.fit_search import EXACT_DEVICES
from scheduler.hardware import Cpu, Host
from scheduler.model import (
    block_bytes,
    embedding_bytes,
    embedding_parameters,
    lm_head_bytes,
)
from scheduler.plan import Plan, Precision
from scheduler.planned_host import plan_host
from scheduler.planner import make_plan
from scheduler.profiles import find_cpu, find_gpu, find_ram, load_model
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB
from scheduler.wanted import Wanted

DOCUMENT = Path(__file__).parents[2] / "docs/numbers.md"
CHATGLM = load_model("chatglm-6b")
FIRST_RELEASE_VOCABULARY = 150_528
HERE = Host(Cpu("unused", 1, 1, 1, 1))


def article_plan(gpu_blocks: int, context: int, **changes: object) -> Plan:
    wanted = Wanted(("RTX 2080 Ti",), (11 * GIB,), "Ryzen 9 3900X", 32 * GIB)
    host, speeds = plan_host(wanted, HERE)
    request = PlanRequest(CHATGLM, gpu_blocks=gpu_blocks, context=context, **changes)  # type: ignore[arg-type]
    return make_plan(request, host, speeds)


def on_cpu(precision: Precision, context: int) -> int:
    plan = article_plan(0, context, cpu_precision=precision)
    return plan.ram.needed_bytes


def on_one_gpu(context: int) -> int:
    host, speeds = plan_host(Wanted(("RTX 3090 Ti",)), Host(Cpu("any", 8, 8, 32 * GIB, 30 * GIB)))
    plan = make_plan(PlanRequest(CHATGLM, policy="fit", context=context), host, speeds)
    (stage,) = plan.stages
    return stage.memory.total_bytes


def article_table() -> list[str]:
    """The article's amounts beside the planner's."""
    blocks = {p: CHATGLM.blocks * block_bytes(CHATGLM, p) for p in ("fp32", "fp16", "int4")}
    bare_int4 = CHATGLM.blocks * 12 * CHATGLM.hidden_size**2 // 2
    head4, head8 = (lm_head_bytes(CHATGLM, p) for p in ("int4", "int8"))
    whole4 = blocks["int4"] + head4 + embedding_bytes(CHATGLM)
    phone = on_cpu("int4", 128)
    row_bytes = 4 * CHATGLM.hidden_size
    saved = FIRST_RELEASE_VOCABULARY * row_bytes
    saved_now = 4 * embedding_parameters(CHATGLM)
    rows = [
        (
            "a block at fp16, 385 MB",
            f"{block_bytes(CHATGLM, 'fp16') / MIB:.1f} MiB",
            "none: MB means MiB, rounded up",
        ),
        (
            "a block at fp32, 768 MB",
            f"{block_bytes(CHATGLM, 'fp32') / MIB:.1f} MiB",
            "none",
        ),
        ("all blocks at fp32, 21 GB", f"{blocks['fp32'] / GIB:.2f} GiB", "none"),
        (
            "all blocks at int4, 2.6 GB",
            f"{blocks['int4'] / GIB:.2f} GiB",
            f"the weights alone are {bare_int4 / GIB:.2f} GiB; scales and zero points of every 128"
            " weights, biases and norms are the rest",
        ),
        (
            "lm_head at int4, 256 MB",
            f"{head4 / MIB:.0f} MiB",
            "scales and zero points again",
        ),
        (
            "lm_head at int8, 256 MB",
            f"{head8 / MIB:.0f} MiB",
            "one byte for each of 130,528 x 4,096 weights cannot be 256 MB: that is the int4 size",
        ),
        (
            "int4 in all with the embedding, about 4 GB",
            f"{whole4 / GIB:.2f} GiB",
            "none; the embedding stays bf16 on disk",
        ),
        (
            "13 GB of VRAM at fp16",
            f"{on_one_gpu(128) / GIB:.2f} GiB at 128 tokens, {on_one_gpu(2048) / GIB:.2f} GiB at"
            " 2,048",
            f"weights and lm_head are {(blocks['fp16'] + lm_head_bytes(CHATGLM, 'fp16')) / GIB:.2f}"
            " GiB; the rest is context, workspace (while lm_head loads it is there twice) and KV"
            " cache, and no embedding",
        ),
        (
            "32 GB of RAM for the float model on the CPU",
            f"{on_cpu('fp32', 128) / GIB:.2f} GiB at 128 tokens, {on_cpu('fp32', 2048) / GIB:.2f}"
            " GiB at 2,048",
            "none: it is the machine's RAM, and what is left is the system's",
        ),
        (
            "embedding on disk saves 2.3 GB",
            f"{saved_now / GIB:.2f} GiB",
            f"the first release had {FIRST_RELEASE_VOCABULARY:,} tokens: at fp32"
            f" {saved / GIB:.2f} GiB",
        ),
        (
            "phone at int4, 2.9 GB",
            f"{phone / GIB:.2f} GiB at 128 tokens",
            f"weights and lm_head are {(blocks['int4'] + head4) / GIB:.2f} GiB as a file; MNN on"
            " x86 keeps scales in fp32, and processes, workspace and KV cache are counted here",
        ),
    ]
    return ["| article | planner | difference |", "| --- | --- | --- |"] + [
        f"| {' | '.join(row)} |" for row in rows
    ]


def speed_table() -> list[str]:
    """The published speeds beside the estimates."""
    rows = []
    for label, published, gpu_blocks in (
        ("CPU only, fp32", "1.14 to 1.2", 0),
        ("hybrid, 23 GPU blocks (the formula)", "3.4 to 3.5", 23),
        ("hybrid, 24 GPU blocks (the program)", "3.4 to 3.5", 24),
    ):
        plan = article_plan(gpu_blocks, 128)
        assert plan.speed is not None
        rows.append(f"| {label} | {published} | {plan.speed.decode_tokens_per_second:.2f} |")
    host, speeds = plan_host(Wanted(cpu="phone with four big Arm cores", ram_bytes=8 * GIB), HERE)
    phone = make_plan(PlanRequest(CHATGLM, (), cpu_precision="int4", context=128), host, speeds)
    assert phone.speed is not None
    rate = phone.speed.decode_tokens_per_second
    rows.append(f"| phone, int4 | 1.5 | {rate:.1f} |")
    return ["| tok/s | published | estimated |", "| --- | --- | --- |", *rows]


def example_table() -> list[str]:
    """One plan by hand: 23 blocks at fp16 on the GPU, 2,048 tokens, one slot."""
    plan = article_plan(23, 2048)
    gpu, cpu = plan.stages
    assert plan.speed is not None
    speed = plan.speed
    memory = (
        ("weights", "weights_bytes"),
        ("lm_head", "lm_head_bytes"),
        ("KV cache", "kv_cache_bytes"),
        ("workspace", "workspace_bytes"),
        ("runtime", "runtime_bytes"),
        ("together", "total_bytes"),
    )
    return [
        "| | GPU | CPU |",
        "| --- | --- | --- |",
        *(
            f"| {label} | {getattr(gpu.memory, item):,} | {getattr(cpu.memory, item):,} |"
            for label, item in memory
        ),
        f"| blocks, ms a token | {1000 * speed.stages[0].decode_seconds:.1f} |"
        f" {1000 * speed.stages[1].decode_seconds:.1f} |",
        f"| lm_head, ms a token | | {1000 * speed.lm_head_seconds:.1f} |",
        f"| hops, ms a token | {1000 * speed.hop_seconds:.2f} | |",
        f"| tok/s | {speed.decode_tokens_per_second:.2f} | |",
    ]


def constants_table() -> list[str]:
    """The constants of the published machine, as estimated from its profiles."""
    gpu = estimated_speed(find_gpu("RTX 2080 Ti"), "mnn:cuda")
    cpu = estimated_speed(find_cpu("Ryzen 9 3900X"), "mnn:cpu", find_ram("dual DDR4-3200"))
    kv = cpu.kv_bytes_per_second or cpu.bandwidth_bytes_per_second
    return [
        "| constant | RTX 2080 Ti | Ryzen 9 3900X, dual DDR4-3200 |",
        "| --- | --- | --- |",
        f"| weights, GB/s | {gpu.bandwidth_bytes_per_second / 1e9:.1f} |"
        f" {cpu.bandwidth_bytes_per_second / 1e9:.1f} |",
        f"| int8 and int4 weights, GB/s | {gpu.weight_speed('int4').bytes_per_second / 1e9:.1f} |"
        f" {cpu.weight_speed('int4').bytes_per_second / 1e9:.1f} |",
        f"| KV cache, GB/s | {gpu.bandwidth_bytes_per_second / 1e9:.1f} | {kv / 1e9:.1f} |",
        f"| prefill, TFLOP/s | {gpu.flops('fp16') / 1e12:.1f} | {cpu.flops('fp32') / 1e12:.2f} |",
        f"| overhead of a block, ms | {1000 * gpu.block_overhead_seconds:.1f} |"
        f" {1000 * cpu.block_overhead_seconds:.1f} |",
    ]


TABLES = (article_table, speed_table, example_table, constants_table)


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_are_the_planners(table: object) -> None:
    assert callable(table)
    lines = "\n".join(table())
    assert lines in DOCUMENT.read_text(encoding="utf-8"), f"docs/numbers.md should say:\n{lines}"


@pytest.mark.parametrize(
    "words",
    [
        f"{CPU_BANDWIDTH_SHARE:g} of RAM's peak",
        f"{GPU_BANDWIDTH_SHARE:g} of VRAM's peak",
        f"{GPU_QUANTISED_SHARE:g} of that for int8 and int4",
        f"{GPU_FLOPS_SHARE:g} of the published fp16 peak",
        f"{CPU_FLOPS_SHARE:g} of cores x clock x operations",
        f"{1000 * GPU_BLOCK_OVERHEAD_SECONDS:g} ms per block",
        f"{1000 * HOP.latency_seconds:g} ms",
        f"{USABLE_TOKENS_PER_SECOND:g} tok/s",
        f"up to {EXACT_DEVICES} devices",
    ],
)
def test_constants_in_the_text_are_the_programs(words: str) -> None:
    assert words in DOCUMENT.read_text(encoding="utf-8")


if __name__ == "__main__":
    for make in TABLES:
        print("\n".join(make()), end="\n\n")
