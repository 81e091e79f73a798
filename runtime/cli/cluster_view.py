"""The terminal view of a cluster plan: stages with their hosts, memory and hops, and the totals."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.cli.plan_view import block_span, labelled
from runtime.cli.tables import print_table
from scheduler.cluster_plan import ClusterPlan, ClusterStage, Hop, Replica
from scheduler.units import format_size

_REPLICAS_SHOWN = 4
_HOSTS_SHOWN = 12


def show(plan: ClusterPlan) -> None:
    """Print a plan to stdout."""
    console = Console(highlight=False, markup=False)
    console.print(Text(headline(plan), style="bold"), soft_wrap=True)
    console.print(labelled([("fit", f"{plan.decision['formula']} ({plan.decision['search']})")]))
    for number, replica in enumerate(plan.replicas[:_REPLICAS_SHOWN], start=1):
        console.print()
        _show_replica(plan, replica, number)
    left_out = len(plan.replicas) - _REPLICAS_SHOWN
    if left_out > 0:
        console.print(f"  and {left_out} more; --json has them all.")
    console.print()
    console.print(Text("  RAM of each host, for all its processes (estimated)", style="dim"))
    console.print(_ram_table(plan))
    console.print()
    console.print(labelled(speed_lines(plan)))
    told = [("why", sentence) for sentence in plan.explanation]
    told += [("warning", sentence) for sentence in plan.warnings]
    told += [("note", sentence) for sentence in plan.notes]
    if told:
        console.print()
        console.print(labelled(told))
    if plan.command:
        console.print()
        console.print(Text("  plan it again", style="dim"))
        console.print(f"  {plan.command}", soft_wrap=True)


def headline(plan: ClusterPlan) -> str:
    """One line with the answer: ``chatglm-6b: 28 blocks over 2 of 4 hosts``."""
    used, hosts = plan.decision["hosts_used"], plan.decision["hosts"]
    copies = f", {len(plan.replicas)} replicas" if len(plan.replicas) > 1 else ""
    return f"{plan.model}: {plan.blocks} blocks over {used} of {hosts} hosts{copies}"


def speed_lines(plan: ClusterPlan) -> list[tuple[str, str]]:
    """Tokens per second, time to first token, and how busy the stages are, with their label."""
    speed = plan.speed
    together = (
        f"{speed.tokens_per_second:.3g} tok/s with {plan.slots} slot{'s' * (plan.slots > 1)}"
        + (" in each replica" if len(plan.replicas) > 1 else "")
    )
    each = f", {speed.tokens_per_second_per_slot:.3g} for each" if plan.slots > 1 else ""
    slowest = max(plan.replicas, key=lambda replica: replica.speed.round_seconds).speed
    return [
        ("decode", f"{together}{each}, at {plan.context_tokens:,} tokens ({speed.provenance})"),
        (
            "prompt",
            f"{speed.time_to_first_token_seconds:.3g} s to the first token of"
            f" {speed.prompt_tokens} ({speed.provenance})",
        ),
        (
            "busiest",
            f"{slowest.slowest}, {1e3 * slowest.slowest_seconds:.3g} ms of a step of"
            f" {1e3 * slowest.step_seconds:.3g} ms; hops take {1e3 * slowest.hop_seconds:.3g} ms",
        ),
        ("waiting", f"{speed.bubble_share:.0%} of the stages' time ({speed.provenance})"),
    ]


def _show_replica(plan: ClusterPlan, replica: Replica, number: int) -> None:
    entry = replica.entry
    rows: list[tuple[str, ...]] = [
        (plan.driver_host, "driver", "embedding, sampler", "", "", "", "", _hop(entry))
    ]
    rows += [_row(stage) for stage in replica.stages]
    name = f"Replica {number}: " if len(plan.replicas) > 1 else ""
    print_table(
        ("host", "device", "holds", "precision"),
        ("needed", "free", "ms a step"),
        rows,
        f"{name}memory and ms estimated unless a column says more; hop: to the next stage, with"
        " bytes and ms of a step.",
        ("hop",),
    )


def _row(stage: ClusterStage) -> tuple[str, ...]:
    free = "unknown"
    if stage.free_bytes is not None:
        free = f"{format_size(stage.free_bytes)} {stage.free_provenance}"
    return (
        stage.host,
        f"{stage.device} {stage.backend}",
        _holds(stage),
        stage.precision,
        format_size(stage.memory.total_bytes),
        free,
        f"{1e3 * stage.step_seconds:.2f} {stage.speed_provenance}",
        _hop(stage.hop),
    )


def _holds(stage: ClusterStage) -> str:
    if not stage.lm_head:
        return block_span(stage)
    return f"{block_span(stage)}, lm_head" if stage.blocks else "lm_head"


def _hop(hop: Hop) -> str:
    way = f"> {hop.to_host}" if hop.network else "in the host"
    if not hop.step_seconds:
        return "logits in the host"
    return (
        f"{way}: {hop.carries} {hop.dtype} {format_size(hop.step_bytes)},"
        f" {1e3 * hop.step_seconds:.2f} ms {hop.provenance}"
    )


def _ram_table(plan: ClusterPlan) -> Table:
    table = Table(
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="dim",
    )
    table.add_column("")
    for title in ("needed", "free"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, style="dim")
    for host in plan.hosts[:_HOSTS_SHOWN]:
        ram = host.ram
        free = "unknown" if ram.available_bytes is None else format_size(ram.available_bytes)
        table.add_row(
            f"  {host.name}", format_size(ram.needed_bytes), free, ram.available_provenance or ""
        )
    if len(plan.hosts) > _HOSTS_SHOWN:
        table.add_row(f"  and {len(plan.hosts) - _HOSTS_SHOWN} more", "", "", "")
    return table
