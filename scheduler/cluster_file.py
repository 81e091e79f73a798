"""Cluster files: TOML with the hosts of a cluster and its network, read into a Cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scheduler.cluster import Cluster, Host, Link
from scheduler.cost import Speeds
from scheduler.errors import UserInputError
from scheduler.estimates import estimated_speeds
from scheduler.hardware import Cpu, Gpu, Planned
from scheduler.hardware import Host as Devices
from scheduler.host_store import load_host
from scheduler.machine import Machine, name_of
from scheduler.planned_host import RAM_SHARE_BYTES, plan_host
from scheduler.profile_files import read_profile
from scheduler.units import format_size
from scheduler.wanted import Wanted
from scheduler.wording import near_matches, shorten

if TYPE_CHECKING:
    from scheduler.cluster_schema import ClusterFile, HostTable, LinkTable, NetworkTable

ASSUMED_CORES = 8
ASSUMED_LINK = Link(gbit_per_second=1.0, latency_seconds=2e-4, provenance="estimated")
"""Gigabit Ethernet through one switch, where a file says nothing of its network."""
_MOST_PAIRS = 100_000

_Class = tuple[tuple[str, ...], str | None, int | None, str | None]


def read_cluster(file: Path) -> Cluster:
    """Read a cluster file of at most 128 KiB.

    Raises UserInputError that names the file, the host or key, and what was expected.
    """
    from scheduler.cluster_schema import ClusterFile

    document = read_profile(file, ClusterFile, "cluster file")
    try:
        return cluster_of(document)
    except UserInputError as error:
        raise UserInputError(f"{file}: {str(error).replace('--', '')}") from None


def cluster_of(document: ClusterFile) -> Cluster:
    """Look up every device that the file names; raises UserInputError without the file's name."""
    from scheduler.cluster_schema import MOST_HOSTS

    if sum(table.count for table in document.host) > MOST_HOSTS:
        raise UserInputError(f"there are over {MOST_HOSTS:,} hosts; plan for a part of them.")
    classes: dict[_Class, tuple[Devices, Speeds]] = {}
    hosts: list[Host] = []
    for table in document.host:
        try:
            machine = _machine(table, classes)
        except UserInputError as error:
            raise UserInputError(f"host {table.name}: {error}") from None
        link = _link(table, document.network)
        hosts += [Host(name, machine, link, table.address, table.price_usd) for name in table.names]
    names = [host.name for host in hosts]
    called = Counter([*names, *(table.name for table in document.host if table.count > 1)])
    twice, times = called.most_common(1)[0]
    if times > 1:
        raise UserInputError(f"two hosts are called {twice}; every host needs a name of its own.")
    groups = {table.name: table.names for table in document.host}
    groups |= {name: [name] for name in names}
    driver = document.driver or hosts[0].name
    if driver not in names:
        raise UserInputError(
            f"driver is {shorten(driver)}, which is no host; {near_matches(driver, names)}"
        )
    return Cluster(tuple(hosts), driver, _pairs(document.link, groups))


def _link(table: HostTable, network: NetworkTable) -> Link:
    gbit = table.bandwidth_gbit or network.bandwidth_gbit
    milliseconds = table.latency_ms if table.latency_ms is not None else network.latency_ms
    if gbit is not None and milliseconds is not None:
        return Link(gbit, milliseconds / 1e3)
    return Link(
        ASSUMED_LINK.gbit_per_second if gbit is None else gbit,
        ASSUMED_LINK.latency_seconds if milliseconds is None else milliseconds / 1e3,
        "estimated",
    )


def _pairs(
    tables: Sequence[LinkTable], groups: dict[str, list[str]]
) -> dict[tuple[str, str], Link]:
    pairs: dict[tuple[str, str], Link] = {}
    for table in tables:
        for name in table.between:
            if name not in groups:
                raise UserInputError(
                    f"a link is between {shorten(name)}, which is no host, and another;"
                    f" {near_matches(name, list(groups))}"
                )
        one, other = (groups[name] for name in table.between)
        if one == other and len(one) == 1:
            raise UserInputError(f"a link is between {one[0]} and itself; name two hosts.")
        if len(pairs) + len(one) * len(other) > _MOST_PAIRS:
            raise UserInputError(
                f"the links stand for over {_MOST_PAIRS:,} pairs; give hosts their own"
                " bandwidth_gbit and latency_ms instead."
            )
        link = Link(table.bandwidth_gbit, table.latency_ms / 1e3)
        for a in one:
            pairs |= {tuple(sorted((a, b))): link for b in other if a != b}  # type: ignore[misc]
    return pairs


def _machine(table: HostTable, classes: dict[_Class, tuple[Devices, Speeds]]) -> Machine:
    key = (tuple(table.gpus), table.cpu, table.cores, table.memory)
    if key not in classes:
        classes[key] = _devices(*key)
    devices, speeds = classes[key]
    devices = _with_vram(devices, table)
    if not table.gpus and table.vram:
        estimated = estimated_speeds(None, [gpu.name for gpu in devices.gpus]).devices
        speeds = Speeds({**estimated, "cpu": speeds.devices["cpu"]}, speeds.hop)
    devices = _with_ram(devices, table)
    if table.speeds is not None:
        speeds = load_host(table.speeds).over(speeds, devices)
    return Machine(name_of(devices), devices, speeds)


def _devices(
    gpus: tuple[str, ...], cpu: str | None, cores: int | None, memory: str | None
) -> tuple[Devices, Speeds]:
    cores = cores or ASSUMED_CORES
    unknown = Devices(Cpu(f"a CPU with {cores} cores", cores, cores, 0, 0))
    return plan_host(Wanted(gpus, cpu=cpu, ram_class=memory), unknown)


def _with_vram(devices: Devices, table: HostTable) -> Devices:
    if table.vram is None:
        return devices
    if not table.gpus:
        gpus = tuple(
            Gpu(f"gpu{number}", f"a GPU with {format_size(free)}", None, free)
            for number, free in enumerate(table.vram)
        )
        return replace(devices, gpus=gpus, planned={gpu.name: Planned("given") for gpu in gpus})
    for gpu, free in zip(devices.gpus, table.vram, strict=True):
        if free > (gpu.total_bytes or free):
            raise UserInputError(
                f"vram {format_size(free)} is more than the {format_size(gpu.total_bytes or 0)} of"
                f" a {gpu.model_name}."
            )
    gpus = tuple(
        replace(gpu, free_bytes=free) for gpu, free in zip(devices.gpus, table.vram, strict=True)
    )
    planned = {
        name: replace(how, memory_provenance="given") if name != "cpu" else how
        for name, how in devices.planned.items()
    }
    return replace(devices, gpus=gpus, planned=planned)


def _with_ram(devices: Devices, table: HostTable) -> Devices:
    """RAM as stated; where a GPU shares it, what the GPU's memory leaves."""
    shared = any(planned.shares_ram for planned in devices.planned.values())
    if shared and table.ram is not None:
        raise UserInputError("its GPU shares its memory with the CPU; leave ram out.")
    if not shared and table.ram is None and table.free_ram is None:
        raise UserInputError("ram is missing; state what is installed, or free_ram.")
    total = devices.cpu.total_bytes if shared else table.ram or table.free_ram or 0
    if table.free_ram is not None and table.free_ram > total:
        raise UserInputError(
            f"free_ram {format_size(table.free_ram)} is more than the {format_size(total)} there"
            " are."
        )
    free = devices.cpu.available_bytes if shared else max(0, total - RAM_SHARE_BYTES)
    if table.free_ram is not None:
        free = table.free_ram
    how = Planned("estimated" if table.free_ram is None else "given", "mnn:cpu")
    return replace(
        devices,
        cpu=replace(devices.cpu, total_bytes=total, available_bytes=free),
        planned={**devices.planned, "cpu": how},
    )
