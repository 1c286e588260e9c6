"""moto's S3 server: everywhere pip can install it, but it checks no signatures and forgets its objects when killed."""

from __future__ import annotations

import sys

from tests.support.servers.s3 import S3Server


class MotoServer(S3Server):
    name = "moto"
    checks_signatures = False
    keeps_objects = False

    def gateway_command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
