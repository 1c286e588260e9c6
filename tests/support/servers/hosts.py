"""Several hosts on one machine, whose links can be cut: network, process and mount namespaces joined by a bridge."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.support.servers.process import end, launch, run, wait_for

SUBNET = "10.213.9"
RAY_FOLDER = "/tmp/jb-hosts-ray"  # on every host its own; short, for the sockets in it
# A host that is cut off refuses nothing, it is silent: the time-out of each check decides when it counts as dead.
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # listeners on the host's own address, which only the others reach
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "2",
}
BOOT = """
mount -t tmpfs -o size=2g tmpfs /dev/shm
mkdir -p "$1" "$2"
mount --bind "$1" "$2"
shift 2
exec "$@"
"""


def why_not() -> str | None:
    """The reason why no hosts can be made here, or None."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    name = f"jb{uuid.uuid4().hex[:6]}"
    added = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if added.returncode:
        return f"no network namespace can be made: {added.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name])
    return None


class Hosts:
    """`num_hosts` hosts, numbered from 1, that see this machine's disk and reach each other and nothing else."""

    def __init__(self, folder: Path, num_hosts: int) -> None:
        self.folder, self.num_hosts = folder, num_hosts
        self._prefix = f"jb{uuid.uuid4().hex[:6]}"
        self._booted: dict[int, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        bridge = self._namespace(0)
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for host in range(1, self.num_hosts + 1):
            name = self._namespace(host)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", bridge, "link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", bridge, "link", "set", f"v{host}", "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")

    def address(self, host: int) -> str:
        return f"{SUBNET}.{host}"

    def boot(self, host: int, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start the host with a command as its first process; the host ends with it, and killing it is a power cut."""
        end(self._booted.get(host))
        unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        disk = self.folder / f"host{host}-{uuid.uuid4().hex[:6]}"
        init = ["sh", "-ec", BOOT, "boot", str(disk), RAY_FOLDER, *command]
        process = launch(["ip", "netns", "exec", self._namespace(host), *unshare, *init], log)
        self._booted[host] = process
        wait_for(lambda: bool(_children(process.pid)), process, log)
        return process

    def on(self, host: int, *command: str) -> tuple[str, ...]:
        """A command line that runs the command on a booted host."""
        (first,) = _children(self._booted[host].pid)
        return ("nsenter", "--target", first, "--mount", "--pid", "--net", "--uts", "--ipc", *command)

    def cut(self, host: int) -> None:
        """Pull the host's cable: the host keeps running, alone."""
        _ip("-n", self._namespace(0), "link", "set", f"v{host}", "down")

    def reconnect(self, host: int) -> None:
        _ip("-n", self._namespace(0), "link", "set", f"v{host}", "up")

    def down(self) -> None:
        for process in self._booted.values():
            end(process)
        for host in range(self.num_hosts + 1):
            subprocess.run(["ip", "netns", "del", self._namespace(host)], capture_output=True)

    def _namespace(self, host: int) -> str:
        return f"{self._prefix}{host}"


def ray_node(hosts: Hosts, host: int, *options: str) -> list[str]:
    """The command line of a Ray node on a host, whose loss is noticed in seconds."""
    from tests.support.servers.ray_head import PROGRAMS

    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    path = f"PATH={PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    common = [f"--node-ip-address={hosts.address(host)}", f"--object-store-memory={200 * 2**20}", "--block"]
    return ["env", *settings, path, str(PROGRAMS / "ray"), "start", *common, *options]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _ip(*arguments: str) -> None:
    run(["ip", *arguments])
