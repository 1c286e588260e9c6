"""`ray start` for one of several nodes on this machine, all of whose listeners stay on 127.0.0.1.

Ray keeps to 127.0.0.1 where RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0, and refuses a second node there. This is its
command line without that refusal; what it starts inherits the 0. Two nodes that start at the same moment would also
pick the same names for their sockets.
"""

from __future__ import annotations

import os

from ray._private import ray_constants, services
from ray._private.node import Node
from ray.scripts.scripts import main


def _own_socket(self: Node, socket_path: str | None, default_prefix: str) -> str:
    return os.path.join(self._sockets_dir, f"{default_prefix}.{os.getpid()}")


if __name__ == "__main__":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.resolve_ip_for_localhost = lambda host: host
    Node._prepare_socket_file = _own_socket
    main()
