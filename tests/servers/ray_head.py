"""A Ray head node with its job server, all plain processes on 127.0.0.1, as `ray start` makes them."""

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

from tests.servers.process import free_port, launch, wait_for

PROGRAMS = Path(
    sys.executable
).parent  # of the environment the tests run in: `ray`, and the `python` of job entrypoints


class RayHead:
    """One node that takes jobs at `url` and drivers at `address`."""

    def __init__(self, log: Path, *, num_cpus: int) -> None:
        self.log = log
        self.num_cpus = num_cpus
        self.port, self.dashboard_port = free_port(), free_port()
        self._folder = tempfile.mkdtemp(prefix="jb-")  # short, for the sockets in it: their paths end at 107 bytes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start(self) -> None:
        """Start the node, and return when the job server answers."""
        options = {
            "node-ip-address": "127.0.0.1",
            "port": self.port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self.dashboard_port,
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "num-cpus": self.num_cpus,
            "object-store-memory": 200 * 2**20,
            "temp-dir": self._folder,
        }
        command = [str(PROGRAMS / "ray"), "start", "--head", "--block"]
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        self._process = launch(
            ["env", f"PATH={path}", *command, *(f"--{name}={value}" for name, value in options.items())], self.log
        )
        wait_for(self._takes_jobs, self._process, self.log, timeout_s=120)

    def stop(self) -> None:
        """End every process of the node: they are one process group; the workers end with their node."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _takes_jobs(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.dashboard_port, timeout=5)
        try:
            connection.request("GET", "/api/jobs/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
