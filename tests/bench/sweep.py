"""How long 10,000 verdicts take: `python -m tests.bench.sweep` prints seconds, asserts nothing."""

from __future__ import annotations

import sys
import time

from scheduler.capacity import sweep
from scheduler.estimates import estimated_speeds
from scheduler.hardware import Cpu, Host
from scheduler.machine import Machine
from scheduler.plan import Precision
from scheduler.profiles import load_gpus, load_model, model_names
from scheduler.request import Policy
from scheduler.units import GIB

MODELS = 10
CARDS = 25
PRECISIONS: list[tuple[Precision, Precision]] = [("fp16", "fp32"), ("int4", "int4")]
CONTEXTS = [512, 1024, 2048, 4096, 8192]
SLOTS = [1, 2, 4, 8]


def main(policies: list[Policy]) -> None:
    """Sweep all listed models over 25 cards, once per policy, and print the time."""
    host = Host(Cpu("a CPU", 8, 8, 64 * GIB, 64 * GIB))
    bare = Machine("bare", host, estimated_speeds(host))
    cards = [gpu for gpu in load_gpus() if gpu.vendor == "NVIDIA" and not gpu.unified_memory]
    machines = [bare.with_card(card) for card in cards[:: len(cards) // CARDS][:CARDS]]
    models = [load_model(name) for name in model_names() if name != "tiny-glm"][:MODELS]
    for policy in policies:
        started, busy = time.perf_counter(), time.process_time()
        cells = list(sweep(models, machines, PRECISIONS, CONTEXTS, SLOTS, policy))
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        told = ", ".join(
            f"{verdict} {sum(cell.verdict == verdict for cell in cells):,}"
            for verdict in dict.fromkeys(cell.verdict for cell in cells)
        )
        print(
            f"{policy}: {len(cells):,} cells in {seconds:.2f} s, {busy:.2f} s of it busy ({told})"
        )


if __name__ == "__main__":
    chosen: list[Policy] = ["fit", "reserve"]
    main([policy for policy in chosen if policy in sys.argv[1:]] or chosen)
