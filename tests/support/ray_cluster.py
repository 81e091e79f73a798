"""Real Ray clusters on this machine, with small nodes that have names and folders of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.cluster.ray_door import load_ray

_REPOSITORY = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 100 << 20
# How soon Ray itself counts a silent node as dead; its own default is half a minute.
_SYSTEM = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}


class LocalCluster:
    """Nodes a, b, c … of one or more CPUs each; the first one runs the driver."""

    def __init__(self, folder: Path, cpus: Sequence[int] = (1, 1)) -> None:
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # machines may be busy
        load_ray()
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._cluster = Cluster()
        self._nodes: dict[str, Any] = {}
        try:
            for number, count in enumerate(cpus):
                self.add("abcdefgh"[number], count)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """What `--cluster` takes."""
        return str(self._cluster.address)

    def data_dir(self, name: str) -> Path:
        """The node's GLM_PLAN_DATA_DIR."""
        return self._folder / name

    def add(self, name: str, cpus: int = 1) -> None:
        """Start a node."""
        head: dict[str, Any] = {}
        if not self._nodes:
            head = {"include_dashboard": False, "_system_config": _SYSTEM}
        self._nodes[name] = self._cluster.add_node(
            node_name=name,
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            env_vars={"GLM_PLAN_DATA_DIR": str(self.data_dir(name))},
            **head,
        )

    def kill(self, name: str) -> None:
        """End a node and everything on it, without a word to anybody."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def close(self) -> None:
        """Leave the cluster and end it."""
        load_ray().shutdown()
        self._cluster.shutdown()
