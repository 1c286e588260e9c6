"""Prompts on web servers that answer less than Parquet needs."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workflows.prompts import PromptsError, find_prompt_files, read_rows


class Handler(BaseHTTPRequestHandler):
    """`/ranges/` sends parts of files, `/whole/` whole files only, `/unsized/` no Content-Length."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        data, part = self.server.data, self.headers["Range"]  # type: ignore[attr-defined]
        is_part = bool(part) and self.path.startswith("/ranges/")
        if is_part:
            first, last = part.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if is_part else 200)
        if not self.path.startswith("/unsized/"):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a", "b"]}), buffer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.data = buffer.getvalue()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_sends_parts_of_files_is_read(address: str) -> None:
    (file,) = find_prompt_files(f"{address}/ranges/p.parquet", {})

    assert read_rows(file, 1, 2, {})["prompt"].to_pylist() == ["b"]


def test_a_server_that_sends_whole_files_only_is_refused_before_the_job_starts(address: str) -> None:
    with pytest.raises(PromptsError, match=r"/whole/p.parquet sends no parts of files \(HTTP ranges\)"):
        find_prompt_files(f"{address}/whole/p.parquet", {})


@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
def test_a_server_that_does_not_say_the_size_of_a_file_is_refused(address: str, name: str) -> None:
    with pytest.raises(PromptsError, match=rf"does not say how large http://.*/unsized/{name} is"):
        find_prompt_files(f"{address}/unsized/{name}", {})
