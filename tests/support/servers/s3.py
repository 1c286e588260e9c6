"""A real S3 server on 127.0.0.1 for tests: what every kind has in common. The kinds are in ceph.py and moto.py."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.servers.process import answers_http, end, free_port, launch, wait_for

if TYPE_CHECKING:
    import s3fs


class S3Server:
    """One gateway process that speaks S3, with one bucket and one pair of keys.

    A kind says `gateway_command()`, and may start what stands behind the gateway in `start_store()`.
    """

    name: str
    checks_signatures: bool
    keeps_objects: bool  # when the gateway is killed and started again

    def __init__(self, folder: Path, *, bucket: str, key: str, secret: str, port: int | None = None) -> None:
        self.folder = folder
        self.bucket = bucket
        self.key = key
        self.secret = secret
        self.port = port or free_port()
        self._gateway: subprocess.Popen[bytes] | None = None
        self._is_store_running = False

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_options(self) -> dict[str, Any]:
        """What fsspec needs beside the keys, which it takes from the environment."""
        return {"endpoint_url": self.endpoint_url}

    def url(self, path: str = "") -> str:
        """The `s3://` address of a path in the bucket."""
        return f"s3://{self.bucket}/{path}".rstrip("/")

    def filesystem(self, **options: Any) -> s3fs.S3FileSystem:
        """A client of its own, with this server's keys unless `options` say otherwise."""
        import s3fs  # takes most of a second, and most tests use no S3

        options = {"key": self.key, "secret": self.secret, **self.storage_options, **options}
        return s3fs.S3FileSystem(skip_instance_cache=True, **options)

    def start(self) -> None:
        """Return when the bucket is there. After `kill` this starts the gateway again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._is_store_running:
            self.start_store()
            self._is_store_running = True
        log = self.folder / "gateway.out"
        self._gateway = launch(self.gateway_command(), log)
        wait_for(lambda: answers_http(self.port), self._gateway, log)
        client = self.filesystem()
        if not client.exists(self.bucket):
            client.mkdir(self.bucket)

    def kill(self) -> None:
        """End the gateway as a power cut would. Connections break and new ones are refused until `start`."""
        end(self._gateway)

    def pause(self) -> None:
        """Stop the gateway in its tracks: connections are accepted by the kernel and never answered."""
        self._gateway.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._gateway.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End every process of this server."""
        end(self._gateway)

    def start_store(self) -> None:
        """Start what the gateway needs behind it, and make the keys known there; nothing by default."""

    def gateway_command(self) -> list[str]:
        raise NotImplementedError
