"""Random small clusters, and every way to place a small model on one: for the tests of planning."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from hypothesis import strategies as st

from scheduler.cluster import Cluster, Host, Link
from scheduler.cluster_fit import ClusterQuestion
from scheduler.cost import DeviceSpeed, HopSpeed, Speeds
from scheduler.hardware import Cpu, Gpu, Planned
from scheduler.hardware import Host as Devices
from scheduler.machine import Machine
from scheduler.model import ModelSpec
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB

Placed = tuple[int, str, int, bool]
"""A stage: the host's number, device, blocks, lm_head."""


def small_model(blocks: int) -> ModelSpec:
    return ModelSpec(
        name="small",
        family="chatglm",
        hidden_size=1024,
        ffn_size=4096,
        blocks=blocks,
        heads=8,
        kv_heads=8,
        head_dim=128,
        vocab_size=30_000,
        max_context=2048,
        norm="layer",
        gated_mlp=False,
        qkv_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        norms_per_block=2,
        tied_embeddings=True,
    )


def device_speed(rate: float, overhead: float = 1e-4, flops: float = 1e12) -> DeviceSpeed:
    return DeviceSpeed(rate, flops, overhead, "estimated", "invented")


def machine(
    name: str,
    ram_mib: int,
    cpu_rate: float,
    gpus: tuple[tuple[int, float], ...] = (),
    shares_ram: bool = False,
) -> Machine:
    """A machine with free MiB of RAM, and for each GPU free MiB and bytes per second."""
    cards = tuple(
        Gpu(f"gpu{number}", "a GPU", None, free_mib * MIB)
        for number, (free_mib, _) in enumerate(gpus)
    )
    planned = {card.name: Planned("given", shares_ram=shares_ram) for card in cards}
    cpu = Cpu("a CPU", 4, 4, 64 * GIB, ram_mib * MIB)
    speeds = {f"gpu{number}": device_speed(rate) for number, (_, rate) in enumerate(gpus)}
    return Machine(
        name,
        Devices(cpu, cards, planned={**planned, "cpu": Planned("given", "mnn:cpu")}),
        Speeds({**speeds, "cpu": device_speed(cpu_rate)}, HopSpeed(2e-4, 5e9)),
    )


links = st.builds(Link, st.sampled_from([0.01, 0.1, 1.0, 10.0]), st.sampled_from([0.0, 3e-4, 0.02]))


@st.composite
def clusters(draw: st.DrawFn, least: int = 1, most: int = 3, gpus: int = 1) -> Cluster:
    rates = st.sampled_from([1e9, 5e9, 5.1e9, 4e10, 3e11])
    hosts = []
    for number in range(draw(st.integers(least, most))):
        cards = tuple(
            (draw(st.integers(550, 900)), draw(rates)) for _ in range(draw(st.integers(0, gpus)))
        )
        ram = draw(st.just(0) | st.integers(450, 1000) | st.integers(450, 700))
        own = machine(f"m{number}", ram, draw(rates), cards, draw(st.integers(0, 9)) == 0)
        hosts.append(Host(f"h{number}", own, draw(links)))
    names = [host.name for host in hosts]
    pairs = {
        (a, b): draw(links) for a in names for b in names if a < b and draw(st.integers(0, 2)) == 0
    }
    return Cluster(tuple(hosts), draw(st.sampled_from(names)), pairs)


@st.composite
def questions(
    draw: st.DrawFn, most_hosts: int = 3, most_blocks: int = 4, objective: str | None = None
) -> ClusterQuestion:
    request = PlanRequest(
        model=small_model(draw(st.integers(1, most_blocks))),
        gpu_precision=draw(st.sampled_from(["fp16", "int4"])),
        cpu_precision=draw(st.sampled_from(["fp32", "int4"])),
        context=draw(st.sampled_from([64, 300])),
        slots=draw(st.sampled_from([1, 3, 8, 16])),
        policy="fit",
        objective=objective or draw(st.sampled_from(["latency", "throughput"])),
    )
    return ClusterQuestion(
        request, draw(clusters(most=most_hosts)), draw(st.sampled_from(["fp32", "fp16"]))
    )


def every_placement(question: ClusterQuestion) -> Iterator[list[Placed]]:
    """All orders of hosts and of devices within each, all counts, lm_head on the last stage.

    A host's stages are next to each other; only the last stage may be without blocks.
    """
    blocks = question.request.model.blocks
    devices = [
        [gpu.name for gpu in host.machine.host.gpus] + ["cpu"] for host in question.cluster.hosts
    ]
    for size in range(1, len(devices) + 1):
        for order in permutations(range(len(devices)), size):
            inner = [
                [
                    chosen
                    for number in range(1, len(devices[host]) + 1)
                    for chosen in permutations(devices[host], number)
                ]
                for host in order
            ]
            for choice in product(*inner):
                places = [
                    (host, device)
                    for host, chosen in zip(order, choice, strict=True)
                    for device in chosen
                ]
                for counts in _counts(len(places), blocks):
                    yield [
                        (host, device, count, number == len(places) - 1)
                        for number, ((host, device), count) in enumerate(
                            zip(places, counts, strict=True)
                        )
                    ]


def _counts(places: int, blocks: int) -> Iterator[tuple[int, ...]]:
    """Every division with at least one block for each place but the last, which may have none."""
    if places == 1:
        yield (blocks,)
        return
    for first in range(1, blocks + 1):
        for rest in _counts(places - 1, blocks - first):
            yield (first, *rest)
