"""An HTTP proxy in front of an S3 server that fails on purpose: busy answers, broken connections, silence, slowness.

Requests are handed on byte for byte with the headers that were signed, so a server that checks signatures takes them.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "expect", "transfer-encoding", "keep-alive"}
BUSY = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>'
STATUS_OF = {"SlowDown": 503, "InternalError": 500, "ServiceUnavailable": 503, "AccessDenied": 403}

# What may happen to a request: nothing, an answer that is an error, a connection that breaks before the request is
# whole, one that breaks after the server did what was asked, an answer that takes long.
FAULTS = ("SlowDown", "InternalError", "reset", "lost answer", "slow")

Choice = Callable[[str, str], str | None]  # method and path of a request -> one of FAULTS or of STATUS_OF, or None


class FaultyProxy:
    """Listens on 127.0.0.1 and hands on to `port`. `choose` says what goes wrong with each request."""

    def __init__(self, port: int, *, slow_seconds: float = 0.5) -> None:
        self.upstream_port, self.slow_seconds = port, slow_seconds
        self.choose: Choice = lambda method, path: None
        self.requests: list[tuple[str, str]] = []  # method and path of each, in the order of their coming
        self.faults: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


def at_random(seed: int, rate: float, faults: tuple[str, ...] = FAULTS) -> Choice:
    """Each request fails with this probability, in a way that is drawn; the same draws for the same seed."""
    chance, lock = random.Random(seed), threading.Lock()

    def choose(method: str, path: str) -> str | None:
        with lock:
            return chance.choice(faults) if chance.random() < rate else None

    return choose


def _handler(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            proxy.requests.append((self.command, self.path))
            fault = proxy.choose(self.command, self.path)
            proxy.faults.update([fault] if fault else [])
            length = int(self.headers.get("Content-Length", 0))
            if fault == "reset":
                self.rfile.read(length // 2)
                return self._reset()
            body = self.rfile.read(length)
            if fault in STATUS_OF:
                return self._answer(STATUS_OF[fault], [], b"" if self.command == "HEAD" else _busy(fault))
            if fault == "slow":
                time.sleep(proxy.slow_seconds)
            try:
                status, headers, data = self._ask_upstream(body)
            except (OSError, http.client.HTTPException):
                return self._reset()
            if fault == "lost answer":
                return self._reset()
            return self._answer(status, headers, data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request

        def _ask_upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream_port, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            names = {name.lower() for name, _ in headers}
            for name, value in headers:
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            if "content-length" not in names:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _reset(self) -> None:
            """Break the connection without an orderly end."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):  # the client went away, or we closed the files under it
                self.close_connection = True

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _busy(code: str) -> bytes:
    return BUSY.format(code=code).encode()
