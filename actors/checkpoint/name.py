"""What people write or paste as a model's name, in the one spelling that the rest of the program knows."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from actors.errors import CheckpointError, NoSuchFolder, one_line, shown

ALLOWED = "allowed are a folder, the URL of a folder, a hub id (organization/name), janus-shapes and janusflow-shapes"

_MAX_NAMES_SHOWN = 8
_HUB_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)(?:/(.*))?", re.IGNORECASE | re.DOTALL)
_HUB_URL = re.compile(r"hf://(?:models/)?(.*)", re.IGNORECASE | re.DOTALL)
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")  # the hub's cache has such a folder for organization/name
_PINNED = re.compile(r"([\w.-]+/[\w.-]+)@([^@]+)")
_OTHER_PAGES = {"datasets", "spaces", "collections", "papers", "docs", "models", "buckets", "settings", "join"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelName:
    """A bundled name, a path, the URL of a folder, or a hub id, and the revision of a hub id."""

    name: str
    revision: str | None


def read_model_name(written: str, revision: str | None) -> ModelName:
    """The model that `written` names.

    A folder that exists is meant first, also one of the hub's cache. Then the pages of the hub and its other spellings
    become a hub id: https://huggingface.co/organization/name/tree/main, hf://organization/name, organization/name@main,
    models--organization--name, organization/name/. Raises CheckpointError where no model is named.
    """
    name = written.strip()
    if not name or "\0" in name or len(os.fsencode(name)) > 4096 or max(map(len, name.split("/"))) > 255:
        raise NoSuchFolder(f"a model's name must be a path, a URL or a hub id, got {shown(written)}; {ALLOWED}")
    path = Path(os.path.expanduser(name))
    if path.exists():
        return ModelName(name=_snapshot_in_cache(path) or name, revision=revision)
    hub_name, pasted_revision = _from_page(name)
    if revision and pasted_revision and revision != pasted_revision:
        raise CheckpointError(
            f"{one_line(name)} names the revision {shown(pasted_revision)}, model.revision {shown(revision)}: "
            "give one of them"
        )
    return ModelName(name=hub_name, revision=revision or pasted_revision)


def _from_page(name: str) -> tuple[str, str | None]:
    """The hub id and the revision in a pasted address; any other name as it is, without slashes at its end."""
    if found := _HUB_PAGE.fullmatch(name):
        path = re.split(r"[?#]", found[1] or "")[0]
    elif found := _HUB_URL.fullmatch(name):
        path = found[1]
    elif found := _CACHED.fullmatch(name.rstrip("/")):
        return f"{found[1]}/{found[2]}", None
    elif found := _PINNED.fullmatch(name.rstrip("/")):
        return found[1], found[2]
    else:
        return name if name.startswith(("/", "~", ".")) or "://" in name else name.rstrip("/"), None
    organization, _, rest = path.strip("/").partition("/")
    if not rest or organization in _OTHER_PAGES:
        raise CheckpointError(f"{one_line(name)} is not the page of a model, such as huggingface.co/organization/name")
    repository, *parts = rest.split("/")
    repository, _, revision = repository.partition("@")
    if len(parts) > 1 and parts[0] in ("tree", "blob", "resolve", "commit"):
        revision, parts = parts[1], parts[2:]
    folder = "/vae" if parts[:1] == ["vae"] else ""
    return f"{organization}/{repository.removesuffix('.git')}{folder}", unquote(revision) or None


def _snapshot_in_cache(path: Path) -> str | None:
    """The snapshot in a repository's folder of the hub's cache; None for a folder that is not of the cache.

    Raises CheckpointError for the cache itself, and where it is open which snapshot is meant.
    """
    path = path.absolute()
    if _CACHED.fullmatch(path.name):
        return snapshot_of(path)
    if path.name == "snapshots" and _CACHED.fullmatch(path.parent.name):
        return snapshot_of(path.parent)
    repositories = [
        found for folder in (path, path / "hub") for found in map(_CACHED.fullmatch, _list(folder)) if found
    ]
    if repositories:
        names = ", ".join(f"{found[1]}/{found[2]}" for found in repositories[:_MAX_NAMES_SHOWN])
        more = len(repositories) - _MAX_NAMES_SHOWN
        raise CheckpointError(
            f"{path} is a cache of the hub and not a model; it holds {one_line(names)}"
            + (f" and {more} more" if more > 0 else "")
        )
    return None


def snapshot_of(repository: Path) -> str | None:
    """The snapshot of the main branch, or the only one; None for a folder that only has such a name."""
    snapshots = repository / "snapshots"
    commits = _list(snapshots)
    try:
        main = (repository / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        main = ""
    if main in commits or len(commits) == 1:
        return str(snapshots / (main if main in commits else commits[0]))
    if commits:
        raise CheckpointError(
            f"{repository} holds {len(commits)} snapshots and its main branch is none of them; name one, such as "
            f"{snapshots / commits[0]}"
        )
    return None


def hub_id_in(path: str) -> str | None:
    """The hub id of a snapshot in the hub's cache, from its path; None for any other path."""
    found = [_CACHED.fullmatch(part) for part in Path(path).parts]
    return next((f"{match[1]}/{match[2]}" for match in found if match), None)


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
