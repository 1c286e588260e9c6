"""A model folder in a repository of the Hugging Face hub, pinned to one commit, downloaded into the hub's cache."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from actors.checkpoint.files import StoredFile
from actors.checkpoint.folder import Folder, LocalFolder
from actors.checkpoint.name import snapshot_of
from actors.errors import CheckpointError, CheckpointUnreachable, NoSuchFolder

# Errors of the disk that holds the cache; those of the network have no such number.
_CACHE_FAULTS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),
}
_CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")  # the first that is set wins


def open_hub_folder(repository: str, revision: str | None, subfolder: str) -> Folder:
    """The repository's folder (`subfolder` "" is its top) at the commit that `revision` names now.

    Where the hub cannot be reached, or must not be (`HF_HUB_OFFLINE`), the snapshot of that revision in its cache on
    this machine. Raises CheckpointError.
    """
    from huggingface_hub import HfApi

    try:
        with _explained(repository, revision):
            info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except CheckpointUnreachable:
        cached = _cached_folder(repository, revision, subfolder)
        if cached is None:
            raise
        return cached
    files = {
        sibling.rfilename: StoredFile(
            name=sibling.rfilename.rsplit("/", 1)[-1],
            size=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
        )
        for sibling in info.siblings or []
    }
    assert info.sha is not None, "the hub names the commit of a model that it describes"
    _note_commit(repository, revision or "main", info.sha)
    return HubFolder(repository, info.sha, subfolder, files)


class HubFolder:
    """A folder at one commit. `all_files` lists the whole repository by path, so that subfolders need no request."""

    def __init__(self, repository: str, revision: str, subfolder: str, all_files: dict[str, StoredFile]) -> None:
        self.name, self.revision = f"{repository}/{subfolder}".rstrip("/"), revision
        self._repository, self._subfolder, self._all_files = repository, subfolder, all_files
        self._prefix = f"{subfolder}/" if subfolder else ""

    def files(self) -> dict[str, StoredFile]:
        return {file.name: file for path, file in self._all_files.items() if path == f"{self._prefix}{file.name}"}

    def read(self, file_name: str) -> bytes:
        from huggingface_hub import hf_hub_download

        with _explained(self._repository, self.revision):
            path = hf_hub_download(self._repository, f"{self._prefix}{file_name}", revision=self.revision)
        return Path(path).read_bytes()

    def sha256(self, file_name: str) -> str:
        """Of a file that is not stored with Git LFS: the hub does not list its hash."""
        return LocalFolder(self.fetch([file_name]), self.name).sha256(file_name)

    def fetch(self, file_names: Sequence[str]) -> Path:
        """Download into the hub's own cache, which has one folder per commit. Cached files need no request."""
        from huggingface_hub import snapshot_download

        patterns = [glob.escape(f"{self._prefix}{name}") for name in file_names]
        with _explained(self._repository, self.revision):
            snapshot = snapshot_download(self._repository, revision=self.revision, allow_patterns=patterns)
        return Path(snapshot) / self._subfolder

    def subfolder(self, name: str) -> HubFolder:
        return HubFolder(self._repository, self.revision, f"{self._prefix}{name}", self._all_files)


def _note_commit(repository: str, revision: str, commit: str) -> None:
    """Note in the hub's cache which commit a branch or tag names, as a download by that name does.

    Files are downloaded by commit. Without the note, the cache could not be used by the branch's name offline.
    """
    note = _cache_of(repository) / "refs" / revision
    partial = note.with_name(f"{note.name}.{os.getpid()}.partial")
    with contextlib.suppress(OSError):  # the download names a cache that cannot be written, if it has to write
        if revision == commit or (note.is_file() and note.read_text() == commit):
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(commit)
        partial.replace(note)


def _cached_folder(repository: str, revision: str | None, subfolder: str) -> LocalFolder | None:
    """The snapshot that an earlier download left on this machine, if it has the config.json."""
    from huggingface_hub import try_to_load_from_cache

    if revision is None:
        snapshot = snapshot_of(_cache_of(repository))
        path = f"{snapshot}/{subfolder}/config.json" if snapshot else None
    else:
        file_name = f"{subfolder}/config.json".lstrip("/")
        found = try_to_load_from_cache(repository, file_name, revision=revision)
        path = found if isinstance(found, str) else None
    if path is None or not Path(path).is_file():
        return None
    folder = Path(path).parent
    commit = (folder.parent if subfolder else folder).name
    return LocalFolder(folder, f"{repository}/{subfolder}".rstrip("/"), commit)


def _cache_of(repository: str) -> Path:
    """The repository's folder in the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into CheckpointErrors of one sentence without the token."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"the hub repository {repository} is gated: accept its terms on the hub and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NoSuchFolder(
            f"{repository} is neither a local folder nor a hub repository that this machine's HF_TOKEN can read"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NoSuchFolder(f"the hub repository {repository} has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repository!r} is not a valid hub id (organization/name)") from error
    except errors.OfflineModeIsEnabled as error:
        raise CheckpointUnreachable(
            f"{repository} is not a local folder, HF_HUB_OFFLINE forbids requests to the hub, and its cache lacks it"
        ) from error
    except (errors.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _CACHE_FAULTS:
            raise CheckpointError(_cache_fault(error)) from error
        if is_refusal(error):
            raise CheckpointError(f"the hub refuses to show {repository} to this machine's HF_TOKEN") from error
        raise CheckpointUnreachable(f"{repository} is not a local folder, and the hub {trouble_of(error)}") from error


def is_refusal(error: Exception) -> bool:
    """Whether the hub has answered that this token, or none, does not suffice."""
    return _status_of(error) in (401, 403)


def trouble_of(error: Exception) -> str:
    """What the hub did instead of a useful answer, as the end of a sentence."""
    status = _status_of(error)
    return f"answered {status}" if status else f"cannot be reached ({type(error).__name__})"


def _status_of(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _cache_fault(error: OSError) -> str:
    """What keeps the hub's cache from being written, and the environment variable that names another folder."""
    from huggingface_hub.constants import HF_HUB_CACHE

    variable = next((name for name in _CACHE_VARIABLES if os.environ.get(name)), None)
    advice = f"{variable} names it" if variable else f"set {_CACHE_VARIABLES[0]} to a folder that can be written"
    return f"the hub's cache {HF_HUB_CACHE} cannot be written ({error.strerror}): {advice}"
