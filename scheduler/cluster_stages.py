"""From a chain of hosts to the stages of a plan: their memory, seconds, and the hops between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scheduler.chain import Chain
from scheduler.cluster import Host
from scheduler.cluster_fit import (
    ClusterQuestion,
    logits_wire_bytes,
    questions_of_host,
    wire_bytes,
)
from scheduler.cluster_plan import ClusterStage, Hop, Replica, ReplicaSpeed
from scheduler.cost import (
    block_decode_seconds,
    block_prefill_seconds,
    device_kind,
    hidden_bytes,
    lm_head_seconds,
)
from scheduler.fit import Room
from scheduler.free_memory import free_of_gpus, free_of_ram
from scheduler.memory import gpu_host_bytes, stage_memory
from scheduler.plan import Provenance
from scheduler.slots import prefill_forwards
from scheduler.speed import DEFAULT_PROMPT

_FROM_LEAST_CERTAIN: tuple[Provenance, ...] = ("estimated", "calibrated", "given", "measured")


def replica_of(question: ClusterQuestion, chain: Chain) -> Replica:
    """Spell out one chain."""
    places = [
        (question.cluster.hosts[number], seat, blocks, seat == option.lm_head)
        for number, option in zip(chain.hosts, chain.options, strict=True)
        for seat, blocks in option.runs
    ]
    driver = question.cluster.host(question.cluster.driver)
    hops = [
        _hop(question, before, after)
        for before, after in zip(
            [driver, *(place[0] for place in places[:-1])], [p[0] for p in places], strict=True
        )
    ]
    hops.append(_way_back(question, places[-1][0], driver))
    stages = []
    first = 0
    for (host, seat, blocks, head), hop in zip(places, hops[1:], strict=True):
        room = questions_of_host(question, host).rooms[seat]
        stages.append(_stage(question, host, room, range(first, first + blocks), head, hop))
        first += blocks
    return Replica(entry=hops[0], stages=stages, speed=_speed(question, chain, hops, stages))


def least_certain_of(replicas: Iterable[Replica]) -> Provenance:
    """How sure the least certain constant among all stages and network hops is."""
    found: set[Provenance] = set()
    for replica in replicas:
        found |= {stage.speed_provenance for stage in replica.stages}
        hops = [replica.entry, *(stage.hop for stage in replica.stages)]
        found |= {hop.provenance for hop in hops if hop.network}
    return min(found, key=_FROM_LEAST_CERTAIN.index)


def _prompt(question: ClusterQuestion) -> int:
    return min(DEFAULT_PROMPT, question.request.context_tokens)


def _hop(question: ClusterQuestion, before: Host, after: Host) -> Hop:
    spec, slots, prompt = question.request.model, question.request.slots, _prompt(question)
    groups, forwards = question.groups, len(prefill_forwards(spec.family, prompt))
    if before is after:
        step, whole = hidden_bytes(spec, slots), hidden_bytes(spec, prompt)
        inside = before.machine.speeds.hop
        return Hop(
            to_host=after.name,
            network=False,
            carries="hidden",
            dtype="fp32",
            step_bytes=step,
            step_seconds=inside.seconds(step, groups),
            prompt_bytes=whole,
            prompt_seconds=inside.seconds(whole, forwards),
            provenance="estimated",
        )
    link = question.cluster.link(before, after)
    step, whole = (wire_bytes(spec, tokens, question.wire) for tokens in (slots, prompt))
    return Hop(
        to_host=after.name,
        network=True,
        carries="hidden",
        dtype=question.wire,
        step_bytes=step,
        step_seconds=link.seconds(step, groups),
        prompt_bytes=whole,
        prompt_seconds=link.seconds(whole, forwards),
        provenance=link.provenance,
    )


def _way_back(question: ClusterQuestion, last: Host, driver: Host) -> Hop:
    """Logits of each slot in a step, and of the last position of a prompt."""
    spec, slots = question.request.model, question.request.slots
    step, prompt = logits_wire_bytes(spec, slots), logits_wire_bytes(spec, 1)
    link = None if last is driver else question.cluster.link(last, driver)
    return Hop(
        to_host=driver.name,
        network=link is not None,
        carries="logits",
        dtype="fp32",
        step_bytes=step,
        step_seconds=0.0 if link is None else link.seconds(step, question.groups),
        prompt_bytes=prompt,
        prompt_seconds=0.0 if link is None else link.seconds(prompt),
        provenance="estimated" if link is None else link.provenance,
    )


def _stage(
    question: ClusterQuestion, host: Host, room: Room, blocks: range, head: bool, hop: Hop
) -> ClusterStage:
    request, device = question.request, room.device
    spec, context, slots = request.model, request.context_tokens, request.slots
    kind, speed = device_kind(device), host.machine.speeds.devices[device]
    head_precision = room.precision if head else None
    parts = (len(blocks), room.precision, head_precision, context, slots)
    own = host.machine.host
    frees = (*free_of_gpus(request, own), free_of_ram(request, own))
    free = next(memory for memory in frees if memory.device == device)
    prompt = _prompt(question)
    step = len(blocks) * block_decode_seconds(spec, speed, kind, room.precision, context, slots)
    whole = len(blocks) * block_prefill_seconds(spec, speed, kind, room.precision, prompt)
    if head:
        step += lm_head_seconds(spec, speed, kind, room.precision, slots)
        whole += lm_head_seconds(spec, speed, kind, room.precision)
    return ClusterStage(
        device=device,
        backend=free.backend,
        precision=room.precision,
        first_block=blocks[0] if blocks else None,
        last_block=blocks[-1] if blocks else None,
        lm_head=head,
        lm_head_precision=head_precision,
        memory=stage_memory(spec, kind, *parts, host.machine.threads),
        host_bytes=gpu_host_bytes(spec, *parts) if kind == "cuda" else 0,
        free_bytes=free.free_bytes,
        free_provenance=free.provenance,
        host=host.name,
        step_seconds=step,
        prompt_seconds=whole,
        speed_provenance=speed.provenance,
        speed_source=speed.source,
        hop=hop,
    )


def _speed(
    question: ClusterQuestion, chain: Chain, hops: Sequence[Hop], stages: Sequence[ClusterStage]
) -> ReplicaSpeed:
    slots, prompt = question.request.slots, _prompt(question)
    overlapping = question.request.objective == "throughput"
    whole = chain.round_seconds(question.groups)
    period = whole if overlapping else chain.total_seconds
    busy = sum(stage.step_seconds for stage in stages)
    first_token = sum(stage.prompt_seconds for stage in stages)
    first_token += sum(hop.prompt_seconds for hop in hops)
    return ReplicaSpeed(
        step_seconds=chain.total_seconds,
        hop_seconds=sum(hop.step_seconds for hop in hops),
        slowest_seconds=chain.slowest_seconds,
        slowest=_slowest(question, hops, stages),
        round_seconds=whole,
        decode_tokens_per_second=slots / chain.total_seconds,
        pipelined_tokens_per_second=slots / whole,
        time_to_first_token_seconds=first_token,
        prefill_tokens_per_second=prompt / first_token,
        bubble_share=max(0.0, 1 - busy / (len(stages) * period)),
    )


def _slowest(question: ClusterQuestion, hops: Sequence[Hop], stages: Sequence[ClusterStage]) -> str:
    found = [(stage.step_seconds, f"{stage.host}/{stage.device}") for stage in stages]
    names = [question.cluster.driver, *(stage.host for stage in stages)]
    for name, hop in zip(names, hops, strict=True):
        if hop.network:
            cluster = question.cluster
            link = cluster.link(cluster.host(name), cluster.host(hop.to_host))
            found.append((link.transfer_seconds(hop.step_bytes), f"{name} > {hop.to_host}"))
    return max(found)[1]
