"""Ceph's S3 gateway (radosgw) on one monitor and one in-memory object store, all plain processes on 127.0.0.1.

Debian and Ubuntu: `apt-get install --no-install-recommends radosgw ceph-mon ceph-osd`.
"""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

from tests.support.servers.process import end, free_port, launch, run
from tests.support.servers.s3 import S3Server

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# One replica, no authentication between the daemons, one placement group per pool, and a monitor that does not wait
# to batch its decisions: what makes a cluster of one start in two seconds. Everything is gone when the store ends.
# A command that reaches a monitor before its sender has the cluster map is refused ("wrong fsid"). `run` tries again,
# but an object store that is refused so ends: it is told to send none.
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{monitor_port}]
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
admin socket =
pid file =
crash dir = {folder}
log file = {folder}/$name.log
mon data = {folder}/mon
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 2000
paxos propose interval = 0.02
paxos min wait = 0.01
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
[osd]
osd objectstore = memstore
osd data = {folder}/osd
memstore device bytes = 4294967296
osd class update on start = false
osd crush update on start = false
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
"""


def is_installed() -> bool:
    """Whether every program that `CephServer` runs is there."""
    return all(shutil.which(program) for program in PROGRAMS)


class CephServer(S3Server):
    name = "Ceph radosgw"
    checks_signatures = True
    keeps_objects = True

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._store: list[subprocess.Popen[bytes]] = []

    def start_store(self) -> None:
        """Start the monitor and the object store, and add the user, who is kept in it."""
        cluster_id, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
        monitor_port = free_port()
        for name in ("mon", "osd", "rgw"):
            (self.folder / name).mkdir()
        self._configuration_file.write_text(
            CONFIGURATION.format(folder=self.folder, fsid=cluster_id, monitor_port=monitor_port, port=self.port)
        )
        monitor_map, address = str(self.folder / "monmap"), f"[v1:127.0.0.1:{monitor_port}]"
        run(self._command("monmaptool", "--create", "--fsid", cluster_id, "--addv", "a", address, monitor_map))
        run(self._command("ceph-mon", "-i", "a", "--mkfs", "--monmap", monitor_map))
        self._launch("ceph-mon", "-i", "a")
        run(self._command("ceph-osd", "-i", "0", "--mkfs", "--no-mon-config", "--osd-uuid", osd_id))
        run(self._command("ceph", "osd", "new", osd_id, "0"))
        self._launch("ceph-osd", "-i", "0")
        run(self._command("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost"))
        keys = ["--access-key", self.key, "--secret-key", self.secret]
        user = ["user", "create", "--uid", "tests", "--display-name", "tests", *keys]
        run(self._command("radosgw-admin", *user))

    def gateway_command(self) -> list[str]:
        return self._command("radosgw", "-n", "client.rgw", "-f")

    def stop(self) -> None:
        super().stop()
        for process in reversed(self._store):
            end(process)

    @property
    def _configuration_file(self) -> Path:
        return self.folder / "ceph.conf"

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [program, "-c", str(self._configuration_file), *arguments]

    def _launch(self, program: str, *arguments: str) -> None:
        self._store.append(launch(self._command(program, *arguments, "-f"), self.folder / f"{program}.out"))
