"""Why a model does not fit a cluster: what every host takes, and what is missing where."""

from __future__ import annotations

from scheduler.cluster_fit import ClusterQuestion, Fitter, fixed_ram_bytes, questions_of_host
from scheduler.fit import does_not_fit
from scheduler.memory import stage_memory
from scheduler.units import format_size

_HOSTS_TOLD = 6


def cluster_shortage(question: ClusterQuestion) -> str:
    """One message: blocks that each host takes at most, and what one more would need there."""
    request = question.request
    spec, context, slots = request.model, request.context_tokens, request.slots
    hosts = question.cluster.hosts
    if len(hosts) == 1:
        asked = questions_of_host(question, hosts[0])
        return does_not_fit(asked, f"{_beside(question)}. {_ways_out(question)}")
    fitter = Fitter(question)
    most = [fitter.most_blocks(number) for number in range(len(hosts))]
    missing = spec.blocks - sum(most)
    told = [
        _told(question, fitter, number, missing)
        for number in sorted(range(len(hosts)), key=lambda n: most[n])[:_HOSTS_TOLD]
    ]
    if len(hosts) > _HOSTS_TOLD:
        told.append(f"{len(hosts) - _HOSTS_TOLD} more hosts take as many or more")
    lacking = (
        f"{missing} of {spec.blocks} blocks and lm_head find no place"
        if missing > 0
        else "the blocks alone might fit, but not with lm_head and the buffers between stages"
    )
    return (
        f"{spec.name} does not fit {len(hosts)} hosts with {context} tokens and {slots}"
        f" slot{'s' * (slots > 1)} at {request.gpu_precision} on GPUs and {request.cpu_precision}"
        f" on CPUs: {lacking}. {'; '.join(told)}. {_ways_out(question)}"
    )


def _told(question: ClusterQuestion, fitter: Fitter, number: int, left: int) -> str:
    """A host's blocks, what its devices have, and the RAM that what is left would need there."""
    request, host = question.request, question.cluster.hosts[number]
    spec = request.model
    asked = questions_of_host(question, host)
    amounts = [f"{room.device} {format_size(room.budget_bytes or 0)}" for room in asked.rooms[:-1]]
    for_stages = max(0, host.machine.ram_bytes - fixed_ram_bytes(question, host))
    amounts.append(f"RAM {format_size(for_stages)}")
    most = fitter.most_blocks(number)
    needed = stage_memory(
        spec,
        "cpu",
        max(1, left),
        request.cpu_precision,
        request.cpu_precision,
        asked.context,
        asked.slots,
        asked.threads,
    ).total_bytes
    return (
        f"{host.name} has {' and '.join(amounts)} for stages and takes {most}; with"
        f" {format_size(needed)} more RAM it would take the rest"
    )


def _beside(question: ClusterQuestion) -> str:
    host = question.cluster.hosts[0]
    return f"Of that RAM, {format_size(fixed_ram_bytes(question, host))} go to the run itself"


def _ways_out(question: ClusterQuestion) -> str:
    request = question.request
    flags = [] if request.cpu_precision == "int4" else ["--precision int4"]
    if request.context_tokens > 128:
        flags.append("a smaller --context")
    if request.slots > 1:
        flags.append("fewer --slots")
    return f"Add hosts, or try {' or '.join(flags)}." if flags else "Add hosts or memory."
