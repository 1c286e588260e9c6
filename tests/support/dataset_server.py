"""A small hub on 127.0.0.1 with datasets: the endpoints that its file system uses, each revision a folder."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import unquote

from tests.support.hub_server import HubServer

_API = re.compile(
    r"/api/datasets/(?P<name>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<rest>[^?]*))?(?:\?.*)?"
)
_FILE = re.compile(r"/datasets/(?P<name>[^/]+/[^/]+)/resolve/(?P<commit>[^/]+)/(?P<path>[^?]*)(?:\?.*)?")


class DatasetServer(HubServer):
    """Serves `revisions`: (name, revision) -> folder. The commit of a revision is `commit_of` its folder."""

    def __init__(self, revisions: dict[tuple[str, str], Path]) -> None:
        super().__init__({})
        self.revisions = revisions

    def answer(self, path: str, byte_range: str | None = None) -> tuple[int, dict[str, str], bytes]:
        if self.error:
            return super().answer(path)
        if match := _FILE.fullmatch(path):
            return self._content(self._folder(match["name"], match["commit"]) / unquote(match["path"]), byte_range)
        match = _API.fullmatch(path)
        if match is None or match["name"] not in {name for name, _ in self.revisions}:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        rest = [unquote(part) for part in (match["rest"] or "main").split("/", 1)]
        try:
            folder = self._folder(match["name"], rest[0])
        except KeyError:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if match["what"] in (None, "revision"):
            siblings = [{"rfilename": entry["path"]} for entry in _entries(folder, "") if entry["type"] == "file"]
            return _json({"id": match["name"], "sha": commit_of(folder), "siblings": siblings, "tags": []})
        below = rest[1] if len(rest) > 1 else ""
        if not (folder / below).exists():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return _json(_entries(folder, below, recursive="recursive=true" in path.lower()))

    def accept(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The only POST: what some paths are."""
        match = _API.fullmatch(path)
        assert match is not None, path
        wanted = json.loads(body)["paths"]
        entries = _entries(self._folder(match["name"], match["rest"]), "")
        return _json([entry for entry in entries if entry["path"] in wanted])

    def _folder(self, name: str, revision: str) -> Path:
        commits = {commit_of(folder): folder for (owner, _), folder in self.revisions.items() if owner == name}
        return commits[revision] if revision in commits else self.revisions[name, revision]

    def _content(self, path: Path, byte_range: str | None) -> tuple[int, dict[str, str], bytes]:
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        data = path.read_bytes()
        if byte_range is None:
            return 200, {"ETag": '"x"'}, data
        start, stop = (int(number) for number in byte_range.removeprefix("bytes=").split("-"))
        return 206, {"Content-Range": f"bytes {start}-{stop}/{len(data)}"}, data[start : stop + 1]


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


def _entries(folder: Path, below: str, *, recursive: bool = True) -> list[dict]:
    entries = []
    for path in sorted((folder / below).rglob("*") if recursive else (folder / below).iterdir()):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            entries.append({"type": "directory", "path": name, "size": 0, "oid": "0" * 40})
        else:
            oid = hashlib.sha1(path.read_bytes()).hexdigest()
            entries.append({"type": "file", "path": name, "size": path.stat().st_size, "oid": oid})
    return entries


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
