"""A small hub on 127.0.0.1: the endpoints its client uses for downloads of models, each a folder at one commit, and for
uploads of datasets, each a set of files in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_a_token_of_the_tests_only"


class HubServer:
    """Serves `repositories` (name -> folder); weights are said to be stored with Git LFS. Use as a context manager.

    `error` (status, X-Error-Code) is answered to everything while it is set. `requests` has the paths asked for.

    `datasets` has the files of each dataset repository, and `num_commits` how often one was changed. With `lfs`, files
    of other types than text are uploaded like large files. After `commits_left` commits, the next ones fail.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.error: tuple[int, str] | None = None
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.num_commits = 0
        self.commits_left: int | None = None
        self.lfs = False
        self._large: dict[str, bytes] = {}
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

    def answer(self, path: str, byte_range: str | None = None) -> tuple[int, dict[str, str], bytes]:
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
        for name, files in self.datasets.items():
            if path.startswith(f"api/datasets/{name}/tree/"):
                entries = [
                    {"type": "file", "path": file, "size": len(data), "oid": "0" * 40} for file, data in files.items()
                ]
                return _json(entries)
            if path in (f"api/datasets/{name}", f"api/datasets/{name}/revision/main"):
                return _json({"id": name, "sha": COMMIT, "siblings": [], "tags": [], "downloads": 0})
            if path.startswith(f"datasets/{name}/resolve/"):
                data = files.get(path.split("/", 5)[5])
                headers = {"ETag": f'"{hashlib.sha1(data or b"").hexdigest()}"', "X-Repo-Commit": COMMIT}
                return (404, {"X-Error-Code": "EntryNotFound"}, b"") if data is None else (200, headers, data)
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def accept(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer to a POST or PUT."""
        if self.error:
            return self.error[0], {"X-Error-Code": self.error[1]} if self.error[1] else {}, b""
        path = path.split("?")[0].strip("/")
        if path == "api/repos/create":
            return self._create(json.loads(body))
        if path == "api/validate-yaml":
            return _json({"warnings": [], "errors": []})
        if path.startswith("large/"):
            self._large[path.removeprefix("large/")] = body
            return _json({})
        for name in self.datasets:
            if path == f"api/datasets/{name}/preupload/main":
                return self._upload_modes(name, json.loads(body))
            if path == f"datasets/{name}.git/info/lfs/objects/batch":
                return self._large_objects(json.loads(body))
            if path == f"api/datasets/{name}/commit/main":
                return self._commit(name, [json.loads(line) for line in body.splitlines()])
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _create(self, wanted: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.datasets:
            return 409, {}, json.dumps({"url": f"{self.url}/datasets/{name}"}).encode()
        self.datasets[name] = {".gitattributes": b""}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.private.add(name)
        return _json({"url": f"{self.url}/datasets/{name}"})

    def _upload_modes(self, name: str, wanted: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """How to upload each file, and the hash of what is there, so that the client skips the same bytes."""
        files = []
        for file in wanted["files"]:
            path, is_text = file["path"], file["path"].endswith((".md", ".py", ".jsonl"))
            data = self.datasets[name].get(path)
            is_large = self.lfs and not is_text
            oid = None if data is None else hashlib.sha256(data).hexdigest() if is_large else _git_hash(data)
            mode = "lfs" if is_large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return _json({"files": files})

    def _large_objects(self, wanted: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        objects = []
        for one in wanted["objects"]:
            actions = {} if one["oid"] in self._large else {"upload": {"href": f"{self.url}/large/{one['oid']}"}}
            objects.append({"oid": one["oid"], "size": one["size"], "actions": actions})
        return _json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        if self.commits_left == 0:
            return 500, {}, b""
        if self.commits_left is not None:
            self.commits_left -= 1
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.datasets[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.datasets[name][value["path"]] = self._large[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.datasets[name][value["path"]]
        self.num_commits += 1
        return _json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/datasets/{name}/commit/{COMMIT}"})

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
                self._send(*hub.answer(self.path, self.headers.get("Range")))

            do_HEAD = do_GET

            def do_POST(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                hub.tokens.add(self.headers.get("Authorization"))
                self._send(*hub.accept(self.path, self._body()))

            do_PUT = do_POST

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _json(body: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
