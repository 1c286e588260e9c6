"""Which S3 server the tests talk to: JANUS_BATCH_TEST_S3 (moto or ceph), or Ceph where it is installed, else moto."""

from __future__ import annotations

import os

from tests.support.servers import ceph
from tests.support.servers.ceph import CephServer
from tests.support.servers.moto import MotoServer

KINDS = {"ceph": CephServer, "moto": MotoServer}


def chosen_server() -> type[CephServer] | type[MotoServer]:
    """The kind of server. Raises ValueError for a JANUS_BATCH_TEST_S3 that is neither."""
    name = os.environ.get("JANUS_BATCH_TEST_S3") or ("ceph" if ceph.is_installed() else "moto")
    if name not in KINDS:
        raise ValueError(f"JANUS_BATCH_TEST_S3 must be moto or ceph, got {name!r}")
    return KINDS[name]
