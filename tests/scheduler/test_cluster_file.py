"""Cluster files: what they mean, and the one sentence that refuses each unsound one."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.cluster import Cluster, Link
from scheduler.cluster_file import ASSUMED_LINK, read_cluster
from scheduler.errors import UserInputError
from scheduler.units import GIB

SOUND = """
driver = "desk"

[network]
bandwidth_gbit = 1
latency_ms = 0.3

[[host]]
name = "desk"
address = "10.0.0.5"
gpus = ["rtx 2080 ti"]
vram = [10.5]
cpu = "ryzen 9 3900x"
ram = 32
bandwidth_gbit = 10
price_usd = 1500

[[host]]
name = "pc"
count = 3
vram = ["6GiB"]
ram = 16

[[host]]
name = "mini"
cores = 4
free_ram = "6GiB"
latency_ms = 2

[[link]]
between = ["pc", "desk"]
bandwidth_gbit = 2.5
latency_ms = 0.1
"""


def read(tmp_path: Path, text: str) -> Cluster:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    return read_cluster(file)


def test_hosts_and_their_memory(tmp_path: Path) -> None:
    cluster = read(tmp_path, SOUND)
    assert [host.name for host in cluster.hosts] == ["desk", "pc-1", "pc-2", "pc-3", "mini"]
    desk, pc, *_, mini = cluster.hosts
    assert (desk.machine.vram_bytes, desk.machine.ram_bytes) == ((10.5 * GIB,), 30 * GIB)
    assert (desk.address, desk.price_usd) == ("10.0.0.5", 1500)
    assert (pc.machine.vram_bytes, pc.machine.ram_bytes) == ((6 * GIB,), 14 * GIB)
    assert (mini.machine.vram_bytes, mini.machine.ram_bytes) == ((), 6 * GIB)
    assert mini.machine.threads == 4
    assert desk.machine.speeds.devices["gpu0"].source.startswith("published peaks of GeForce RTX")
    memory = {name: how.memory_provenance for name, how in desk.machine.host.planned.items()}
    assert memory == {"gpu0": "given", "cpu": "estimated"}


def test_links_are_as_slow_as_the_slower_end_unless_the_pair_has_its_own(tmp_path: Path) -> None:
    cluster = read(tmp_path, SOUND)
    desk, pc, _, other, mini = cluster.hosts
    assert cluster.link(desk, mini) == cluster.link(mini, desk) == Link(1.0, 0.002)
    assert cluster.link(pc, other) == Link(1.0, 0.0003)
    assert cluster.link(other, desk) == cluster.link(desk, pc) == Link(2.5, 0.0001)
    # 16 KiB at 1 Gbit/s: 131 microseconds, and two messages wait twice
    assert Link(1.0, 0.002).seconds(16384, 2) == pytest.approx(0.004131072)


def test_a_network_that_is_not_described_is_assumed_and_says_so(tmp_path: Path) -> None:
    cluster = read(tmp_path, '[[host]]\nname = "a"\nram = 8\n[[host]]\nname = "b"\nram = 8\n')
    assert cluster.driver == "a"
    assert cluster.link(*cluster.hosts) == ASSUMED_LINK
    assert ASSUMED_LINK.provenance == "estimated"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "host is missing."),
        ('[[host]]\nname = "a"\n', "host a: ram is missing; state what is installed, or free_ram."),
        ('[[host]]\nname = "a"\nrams = 8\n', "host[0].rams is no key of a cluster file; did you"),
        ('[[host]]\nname = "a"\nram = "8 monkeys"\n', "a size is '8 monkeys'; expected"),
        ('[[host]]\nname = "a b"\nram = 8\n', "host[0].name is 'a b'"),
        ('[[host]]\nname = "a"\nram = 8\ngpus = ["rtx 2080 tie"]\n', "host a: GPU "),
        (
            '[[host]]\nname = "a"\nram = 8\ngpus = ["rtx 2080 ti"]\nvram = [8, 8]\n',
            "host a names 1 gpus and 2 amounts of vram",
        ),
        (
            '[[host]]\nname = "a"\nram = 8\ngpus = ["rtx 2080 ti"]\nvram = [12]\n',
            "host a: vram 12.00 GiB is more than the 11.00 GiB",
        ),
        ('[[host]]\nname = "a"\nram = 8\nfree_ram = 9\n', "host a: free_ram 9.00 GiB is more than"),
        ('[[host]]\nname = "a"\nram = 8\n' * 2, "two hosts are called a"),
        (
            '[[host]]\nname = "a"\ncount = 2\nram = 8\n[[host]]\nname = "a-2"\nram = 8\n',
            "two hosts are called a-2",
        ),
        (
            '[[host]]\nname = "a"\ncount = 4000\nram = 8\n'
            '[[host]]\nname = "b"\ncount = 4000\nram = 8\n',
            "there are over 4,096 hosts",
        ),
        (
            '[[host]]\nname = "a"\ncount = 2\naddress = "x"\nram = 8\n',
            "host a stands for 2 and has one address",
        ),
        ('driver = "c"\n[[host]]\nname = "a"\nram = 8\n', "driver is 'c', which is no host"),
        (
            '[[host]]\nname = "a"\nram = 8\n'
            '[[link]]\nbetween = ["a", "a"]\nbandwidth_gbit = 1\nlatency_ms = 0\n',
            "a link is between a and itself",
        ),
        (
            '[[host]]\nname = "a"\nram = 8\n'
            '[[link]]\nbetween = ["a", "z"]\nbandwidth_gbit = 1\nlatency_ms = 0\n',
            "a link is between 'z', which is no host",
        ),
        (
            '[[host]]\nname = "a"\nram = 8\nbandwidth_gbit = inf\n',
            "host[0].bandwidth_gbit is inf",
        ),
        ('[[host]]\nname = "a"\nram = 8\nspeeds = "none"\n', "host a: Host 'none' is unknown"),
        ("x" * 200_000, "is over 128 KiB"),
    ],
)
def test_refusals_name_the_file_and_the_fault(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserInputError) as refused:
        read(tmp_path, text)
    message = str(refused.value)
    assert message.startswith(str(tmp_path / "cluster.toml"))
    assert told in message
    assert "--" not in message
