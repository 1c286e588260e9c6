"""A small hub on 127.0.0.1: the endpoints its client uses for a download, each repository a folder at one commit."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_a_token_of_the_tests_only"


class HubServer:
    """Serves `repositories` (name -> folder); weights are said to be stored with Git LFS. Use as a context manager.

    `error` (status, X-Error-Code) is answered to everything while it is set. `requests` has the paths asked for.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.error: tuple[int, str] | None = None
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler_class())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def downloaded(self) -> set[str]:
        """The files whose content was sent."""
        return {path.split("/resolve/")[1].split("/", 1)[1] for path in self.requests if path.startswith("GET /org/")}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.error:
            return self.error[0], {"X-Error-Code": self.error[1]} if self.error[1] else {}, b""
        path = path.split("?")[0].strip("/")
        for name, folder in self.repositories.items():
            if path == f"api/models/{name}" or path.startswith(f"api/models/{name}/revision/"):
                return self._info(name, folder, path.partition("/revision/")[2])
            if path == f"api/models/{name}/tree/{COMMIT}":
                return self._tree(folder)
            if path.startswith(f"{name}/resolve/{COMMIT}/"):
                return self._file(folder / path.partition(f"/{COMMIT}/")[2])
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _info(self, name: str, folder: Path, revision: str) -> tuple[int, dict[str, str], bytes]:
        if revision not in ("", "main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        siblings = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "blobId": "0" * 40}
            if path.suffix in (".safetensors", ".bin"):
                entry["lfs"] = {"sha256": _sha256(path), "size": path.stat().st_size, "pointerSize": 134}
            siblings.append(entry)
        body = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def _tree(self, folder: Path) -> tuple[int, dict[str, str], bytes]:
        entries = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            size, oid = path.stat().st_size, _sha256(path)
            entry = {"type": "file", "path": path.relative_to(folder).as_posix(), "size": size, "oid": oid[:40]}
            if path.suffix in (".safetensors", ".bin"):
                entry["lfs"] = {"oid": oid, "size": size, "pointerSize": 134}
            entries.append(entry)
        return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()

    def _file(self, path: Path) -> tuple[int, dict[str, str], bytes]:
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        etag = _sha256(path) if path.suffix in (".safetensors", ".bin") else "e" + _sha256(path)[:39]
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, path.read_bytes()

    def _handler_class(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                hub.tokens.add(self.headers.get("Authorization"))
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
