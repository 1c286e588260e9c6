"""The machines of the chaos test: a Ray cluster of several nodes, an S3 store, and a proxy in front of it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.command import processes_of
from tests.support.servers.faulty_proxy import FaultyProxy
from tests.support.servers.ray_head import RayHead
from tests.support.servers.s3 import S3Server

NUM_NODES = 3

# The kernel keeps 15 characters of a process name.
ACTOR, ANY_TASK = "ray::EngineActo", ("ray::_write_bat", "ray::_read_shar", "ray::_commit_sh", "ray::IDLE")


class Machines:
    """A head without CPUs, `NUM_NODES` nodes with one each, a store, and the proxy through which the job uses it."""

    def __init__(self, folder: Path, store: S3Server, proxy: FaultyProxy) -> None:
        self.store, self.proxy = store, proxy
        self._folder, self._num_heads = folder, 0
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._start_cluster()

    @property
    def address(self) -> str:
        return self._cluster.address

    @property
    def storage_options(self) -> dict[str, str]:
        return {"endpoint_url": self.proxy.endpoint_url}

    def processes(self, *names: str) -> list[int]:
        """The ids of the living processes with these names on the nodes, sorted."""
        found = {pid: name for node in self._nodes for pid, name in processes_of(node.pid).items()}
        return sorted(pid for pid, name in found.items() if name in names)

    def replace_node(self, chance: random.Random) -> None:
        """Cut the power of a node; a new one joins."""
        node = self._nodes.pop(chance.randrange(len(self._nodes)))
        self._cluster.cut_power(node)
        self._add_node()

    def replace_cluster(self) -> None:
        """Cut the power of the head and of every node; a new cluster starts at a new address."""
        self._cluster.stop()
        self._nodes.clear()
        self._start_cluster()

    def repair(self) -> None:
        """Start a new cluster if the head has ended by itself, as Ray does when a busy machine starts it slowly."""
        if not self._cluster.is_running:
            self.replace_cluster()

    def stop(self) -> None:
        self._cluster.stop()

    def _start_cluster(self) -> None:
        self._num_heads += 1
        self._cluster = RayHead(self._folder / f"ray-{self._num_heads}.out", num_cpus=0)
        self._cluster.start()
        for _ in range(NUM_NODES):
            self._add_node()

    def _add_node(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=1))


@contextmanager
def running_machines(folder: Path, store: S3Server) -> Iterator[Machines]:
    """The machines around a store that is running."""
    with FaultyProxy(store.port).running() as proxy:
        machines = Machines(folder, store, proxy)
        try:
            yield machines
        finally:
            machines.stop()
