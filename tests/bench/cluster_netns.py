"""Two hosts in network namespaces with a link of known rate and latency, against the planner.

    sudo python -m tests.bench.cluster_netns [--tokens N]

Each namespace runs a Ray node of one CPU; the tiny model has half of its blocks on each. What a
token spends outside of the stages is printed beside what the planner says for a cluster file with
this rate and latency, and for the link as `--cluster auto` measures it. Answers have to be those of
one process. Nothing stays behind, after a failure neither.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runtime.bundle import open_bundle
from runtime.cluster.discover import discover
from runtime.cluster.ray_door import join, nodes
from runtime.cluster.target import cluster_target
from runtime.engine import Engine, Generation
from runtime.sampling import Sampling
from scheduler.cluster_file import read_cluster
from scheduler.cluster_plan import ClusterPlan
from scheduler.plan_file import write_plan
from tests.support.cluster_plans import cpu_request, plan_of_counts
from tests.support.engines import start_engine
from tests.support.ray_cluster import OBJECT_STORE_BYTES
from tests.support.tiny import TINY_BUNDLE
from tests.support.two_hosts import ADDRESSES, TwoHosts, why_not

SETTINGS = (
    ("unlimited", None, 0.0),
    ("1 Gbit/s", 1.0, 0.0),
    ("100 Mbit/s", 0.1, 0.0),
    ("unlimited, +5 ms", None, 5e-3),
    ("100 Mbit/s, +5 ms", 0.1, 5e-3),
)
COUNTS = (4, 4)
PROMPT_TOKENS = 512  # of which the planner speaks, too
PROMPTS = 5
CONTEXT = 1024
_PORT = 6379
_NODES_SECONDS = 120.0
_NODE_SECONDS = 45.0
_TRIES = 3
_HOSTS = """driver = "a"

[network]
bandwidth_gbit = {gbit:g}
latency_ms = {latency_ms:g}

[[host]]
name = "a"
address = "{addresses[0]}"
cores = 1
free_ram = 2

[[host]]
name = "b"
address = "{addresses[1]}"
cores = 1
free_ram = 2
"""
UNLIMITED_GBIT = 100  # of a cluster file for a link without a limit


def ray_start(host: int) -> list[str]:
    """The command that starts the Ray node of a host and stays in the foreground."""
    where = ["--head", f"--port={_PORT}", "--include-dashboard=false"]
    if host:
        where = [f"--address={ADDRESSES[0]}:{_PORT}"]
    return [
        str(Path(sys.executable).with_name("ray")),
        "start",
        *where,
        f"--node-ip-address={ADDRESSES[host]}",
        f"--node-name={'ab'[host]}",
        "--num-cpus=1",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
        "--block",
    ]


def prompts() -> list[list[int]]:
    """Prompts that share no beginning."""
    return [
        [20 + number, *(30 + (7 * number + k) % 900 for k in range(1, PROMPT_TOKENS))]
        for number in range(PROMPTS)
    ]


def answers_of(engine: Engine, tokens: int, generations: list[Generation]) -> list[list[int]]:
    """One after the other, greedy."""
    return [
        list(engine.submit(one, Sampling(), tokens, ignore_end=True, generation=generation))
        for one, generation in zip(prompts(), generations, strict=True)
    ]


def tell(what: str, measured: list[float], by_file: float, by_probe: float) -> None:
    """One line: seconds measured, and the planner's two."""
    print(
        f"  hops of {what}: median {1e3 * statistics.median(measured):.2f} ms, 95 % under"
        f" {1e3 * statistics.quantiles(measured, n=20, method='inclusive')[-1]:.2f} ms (measured);"
        f" planner {1e3 * by_file:.2f} ms for the file, {1e3 * by_probe:.2f} ms for the link as"
        " measured (estimated)",
        flush=True,
    )


def prompt_hop_seconds(plan: ClusterPlan) -> float:
    """What the planner says of the hops of a whole prompt."""
    chain = plan.replicas[0]
    return sum(hop.prompt_seconds for hop in (chain.entry, *(one.hop for one in chain.stages)))


def drive(setting: str, file: Path, tokens: int) -> None:
    """The driver's part, on host a: run the model over both and compare."""
    address = f"{ADDRESSES[0]}:{_PORT}"
    join(address)
    until = time.monotonic() + _NODES_SECONDS
    while len(nodes()) < len(ADDRESSES):
        if time.monotonic() > until:
            raise TimeoutError("the second host did not join")
        time.sleep(0.5)
    bundle = open_bundle(TINY_BUNDLE)
    request = cpu_request(bundle, CONTEXT)
    generations = [Generation() for _ in range(PROMPTS)]
    with start_engine(bundle, slots=1, context=CONTEXT) as engine:
        expected = answers_of(engine, tokens, [Generation() for _ in range(PROMPTS)])
    stated = plan_of_counts(request, read_cluster(file), COUNTS)
    probed = plan_of_counts(request, discover(nodes()).cluster(), COUNTS)
    plan_file = file.with_suffix(".json")
    write_plan(stated, plan_file)
    told: list[str] = []
    start = cluster_target(address, bundle, request, plan_file, "fp32", told.append).start
    with Engine(bundle, start.launches, CONTEXT, cores=start.cores, start_pipeline=start) as engine:
        if answers_of(engine, tokens, generations) != expected:
            raise AssertionError(f"{setting}: answers differ from those of one process")
    print(f"{setting}: {PROMPTS} answers of {tokens} tokens are those of one process")
    print(*(f"  {line}" for line in told if line.endswith("(measured)")), sep="\n")
    steps = [step.hop_seconds for one in generations for step in one.decode]
    by_file, by_probe = (one.replicas[0].speed.hop_seconds for one in (stated, probed))
    tell("a token", steps, by_file, by_probe)
    first = [one.prefill.hop_seconds for one in generations if one.prefill is not None]
    what = f"a prompt of {PROMPT_TOKENS}"
    tell(what, first, prompt_hop_seconds(stated), prompt_hop_seconds(probed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--inside", nargs=2, metavar=("SETTING", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        drive(given.inside[0], Path(given.inside[1]), given.tokens)
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    missing = why_not()
    if missing is not None:
        print(f"skipped: {missing}")
        return
    # A short path: Ray's sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="gp", dir="/tmp", ignore_cleanup_errors=True) as folder:
        measure_all(Path(folder), given.tokens)


def end(*_: object) -> None:
    """Leave in order on the first signal; later ones must not cut the cleaning short."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1)


def start_node(hosts: TwoHosts, host: int, environment: dict[str, str], folder: Path) -> None:
    """Start a Ray node and wait until it says so; busy machines may need another try."""
    for number in range(_TRIES):
        log = folder / f"ray-{'ab'[host]}-{number}.log"
        own = {**environment, "RAY_TMPDIR": str(folder / f"r{host}{number}")}
        node = hosts.start(host, ray_start(host), own, log)
        until = time.monotonic() + _NODE_SECONDS
        while node.poll() is None and time.monotonic() < until:
            if b"Ray runtime started" in log.read_bytes():
                return
            time.sleep(0.5)
        print(f"Ray did not start on host {'ab'[host]}, try {number + 1}", file=sys.stderr)
        hosts.end_processes(host)
    raise TimeoutError(f"Ray did not start: {log.read_text('utf-8', 'replace')[-2000:]}")


def measure_all(folder: Path, tokens: int) -> None:
    """Start a Ray node on each of two hosts, and a driver for every setting."""
    environment = {
        "RAY_raylet_start_wait_time_s": "120",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    with TwoHosts() as hosts:
        for host in range(len(ADDRESSES)):
            own = {**environment, "GLM_PLAN_DATA_DIR": str(folder / "ab"[host])}
            start_node(hosts, host, own, folder)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        for number, (setting, gbit, latency) in enumerate(SETTINGS):
            hosts.shape(gbit, latency)
            file = folder / f"hosts-{number}.toml"
            text = _HOSTS.format(
                gbit=gbit or UNLIMITED_GBIT, latency_ms=1e3 * latency, addresses=ADDRESSES
            )
            file.write_text(text, encoding="utf-8")
            command = [sys.executable, "-m", __spec__.name, "--inside", setting, str(file)]
            own = {**environment, "RAY_TMPDIR": str(folder)}
            driver = hosts.start(0, [*command, "--tokens", str(tokens)], own)
            if driver.wait():
                raise subprocess.CalledProcessError(driver.returncode, command)


if __name__ == "__main__":
    main()
