"""A Ray cluster: a head node with its job server and more nodes, all plain processes on 127.0.0.1 from `ray start`."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.support.command import processes_of
from tests.support.servers.process import free_port, launch, wait_for

# Of the environment the tests run in: `ray`, and `python` for the jobs' entrypoints.
PROGRAMS = Path(sys.executable).parent
RAY_NODE = Path(__file__).with_name("ray_node.py")

# A node that was killed refuses connections, and is declared dead after so many in a row: in seconds. One that is
# only slow, on a machine that is busy, has the time-out of each check to answer.
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every listener stays on 127.0.0.1
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_FAKE_CLUSTER": "1",  # without which the provider below starts nothing
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}

HEAD_TYPE, MAX_NODES = "ray.head.default", 4
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
    "launch_multiple": True,
}
# Ray checks that all of these are there.
AUTOSCALER = {
    "cluster_name": "tests",
    "head_node_type": HEAD_TYPE,
    "max_workers": MAX_NODES,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "auth": {"ssh_user": "nobody"},
    "docker": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}


class RayHead:
    """One node that takes jobs at `url` and drivers at `address`, and the nodes that joined it."""

    def __init__(
        self,
        log: Path,
        *,
        num_cpus: int,
        token: str | None = None,
        node_types: dict[str, dict[str, int]] | None = None,
        programs: Path = PROGRAMS,
    ) -> None:
        """With a `token`, the environment has to name it, for Ray's programs read it from there. `programs` holds the
        `python` that the nodes, their workers and the jobs run.

        `node_types` (each with its resources) are what an autoscaler adds nodes of when a job asks for them.
        """
        self.log = log
        self.num_cpus = num_cpus
        self._token, self._node_types, self._programs = token, node_types or {}, programs
        self.port, self.dashboard_port = free_port(), free_port()
        self._folder = tempfile.mkdtemp(prefix="jb-")  # short, for the sockets in it: their paths end at 107 bytes
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def is_running(self) -> bool:
        """Whether the head's processes are all there: `ray start --block` ends with the first that does."""
        return self._nodes[0].poll() is None

    def start(self) -> None:
        """Start the head, and return when its job server answers."""
        head = self._start_node(
            "--head",
            f"--port={self.port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={free_port()}",
            f"--num-cpus={self.num_cpus}",
            f"--temp-dir={self._folder}",
            *self._autoscaler_options(),
        )
        wait_for(self._takes_jobs, head, self.log, timeout_s=120)

    def add_node(self, *, num_cpus: int) -> subprocess.Popen[bytes]:
        """Start a node that joins; it may take some seconds to be there."""
        return self._start_node(f"--address={self.address}", f"--num-cpus={num_cpus}")

    def cut_power(self, node: subprocess.Popen[bytes]) -> None:
        """End every process of a node at once: they are one process group, and its workers end with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def kill_agent(self) -> None:
        """Kill the head's agent, through which the job server reaches drivers; Ray's daemon there ends with it."""
        for process, name in processes_of(self._nodes[0].pid).items():
            if name.startswith("ray::DashboardA"):
                os.kill(process, signal.SIGKILL)

    def stop(self) -> None:
        for node in reversed(self._nodes):
            self.cut_power(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_node(self, *options: str) -> subprocess.Popen[bytes]:
        """`ray start` with what all nodes have."""
        settings = {**SETTINGS, "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}"}
        common = (
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--object-store-memory={200 * 2**20}",
        )
        environment = [f"{name}={value}" for name, value in settings.items()]
        ray_start = [str(self._programs / "python"), "-P", str(RAY_NODE), "start"]
        node = launch(["env", *environment, *ray_start, *common, *options], self.log)
        self._nodes.append(node)
        return node

    def _autoscaler_options(self) -> list[str]:
        """Ray's own autoscaler with the provider of its tests, whose nodes are processes of this machine."""
        if not self._node_types:
            return []
        head_type = {"resources": {"CPU": self.num_cpus}, "node_config": {}, "min_workers": 0, "max_workers": 0}
        worker_types = {
            name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": MAX_NODES}
            for name, resources in self._node_types.items()
        }
        path = Path(self._folder) / "autoscaler.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    **AUTOSCALER,
                    "provider": {**PROVIDER, "gcs_address": self.address},
                    "available_node_types": {HEAD_TYPE: head_type, **worker_types},
                }
            )
        )
        return [f"--autoscaling-config={path}"]

    def _takes_jobs(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.dashboard_port, timeout=5)
        try:
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            connection.request("GET", "/api/jobs/", headers=headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
