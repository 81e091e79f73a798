"""A cluster plan as a plan of one chain, for all who ask which stage is where and how large."""

from __future__ import annotations

from scheduler.cluster_plan import ClusterPlan, ClusterStage
from scheduler.plan import Plan, RamBudget, Stage


def as_plan(plan: ClusterPlan) -> Plan:
    """The first replica's stages, whose devices are called host/device.

    RAM is that of all hosts together. Speeds and hops stay in the cluster plan, which is part of
    the decision.
    """
    stages = [_stage(stage) for stage in plan.replicas[0].stages]
    on_cpu = sum(len(stage.blocks) for stage in stages if stage.on_cpu)
    available = [host.ram.available_bytes for host in plan.hosts]
    known = [one for one in available if one is not None]
    return Plan(
        model=plan.model,
        policy="fit",
        gpu_blocks=plan.blocks - on_cpu,
        cpu_blocks=on_cpu,
        stages=stages,
        ram=RamBudget(
            needed_bytes=sum(host.ram.needed_bytes for host in plan.hosts),
            driver_bytes=plan.hosts[0].ram.driver_bytes,
            available_bytes=sum(known) if len(known) == len(available) else None,
            available_provenance=plan.hosts[0].ram.available_provenance,
        ),
        embedding_bytes=plan.embedding_bytes,
        context_tokens=plan.context_tokens,
        slots=plan.slots,
        decision={**plan.decision, "cluster": plan.model_dump(mode="json", by_alias=True)},
        notes=plan.notes,
        warnings=plan.warnings,
    )


def _stage(stage: ClusterStage) -> Stage:
    own = {name: getattr(stage, name) for name in Stage.model_fields}
    return Stage(**{**own, "device": f"{stage.host}/{stage.device}"})
