"""Datasets of the Hugging Face hub as prompts: hf://datasets/ORGANIZATION/NAME[@REVISION][/SPLIT or PATH].

A location is pinned to a commit when the job starts, so that every run and every node reads the same files. The hub
converts many datasets to Parquet on a branch of its own, which is used if the dataset has no files that can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from actors.checkpoint.hub import is_refusal, trouble_of
from actors.errors import one_line
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.formats import ALLOWED, COMPANION_ENDINGS, PARQUET, format_of
from workflows.storage.errors import StorageError, StorageUnreachable

SCHEME, CONVERTED = "hf://", "refs/convert/parquet"
_LOCATION = re.compile(r"hf://datasets/(?P<id>[^/@]+/[^/@]+)(?:@(?P<revision>refs/\w+/[^/]+|[^/]+))?(?:/(?P<path>.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ROOT = re.compile(r"(?P<root>datasets/[^/]+/[^/@]+(?:@[^/]+)?)(?:/(?P<rest>.*))?")


def pinned(location: str) -> str:
    """The location with the commit that its revision names now; anything but a dataset of the hub as it is.

    Raises PromptsError, StorageError, or StorageUnreachable if the hub does not answer.
    """
    if not location.startswith(SCHEME):
        return location
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise PromptsError(
            f"prompts: a dataset of the hub is hf://datasets/ORGANIZATION/NAME[@REVISION][/SPLIT], got "
            f"{one_line(location)}"
        )
    name, revision, path = match["id"], match["revision"], match["path"]
    if revision is None or not _COMMIT.fullmatch(revision):
        revision = _commit_of(name, None if revision is None else revision.replace("%2F", "/"))
    return f"{SCHEME}datasets/{name}@{revision}" + (f"/{path}" if path else "")


def is_hub(fs: fsspec.AbstractFileSystem) -> bool:
    return "hf" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def hub_files(fs: fsspec.AbstractFileSystem, root: str) -> dict[str, dict[str, Any]]:
    """The prompt files of a dataset, or of one split, by the rule of `datasets`: a part of the path has its name.

    Parquet files only, if there are any. Raises PromptsError if the split has no files.
    """
    match = _ROOT.fullmatch(root)
    if match is None:
        return {}
    found = {path: info for path, info in fs.find(match["root"], detail=True).items() if _can_be_read(path)}
    parquet = {path: info for path, info in found.items() if format_of(path).name == PARQUET}
    found, split = parquet or found, match["rest"]
    if not split:
        return found
    names = {path: path[len(match["root"]) :] for path in found}
    pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(split)}(?![A-Za-z0-9])")
    matching = {path: info for path, info in found.items() if pattern.search(names[path])}
    if found and not matching:
        raise PromptsError(
            f"prompts: {SCHEME}{match['root']} has neither a split nor a folder `{one_line(split)}`; its files are "
            f"{one_line(', '.join(sorted(name.lstrip('/') for name in names.values())))}"
        )
    return matching


def _commit_of(name: str, revision: str | None) -> str:
    """The commit of a dataset, or of its conversion to Parquet if the dataset has no files that can be read."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    with _explained(name, revision):
        info = HfApi().dataset_info(name, revision=revision)
        if not any(_can_be_read(file.rfilename) for file in info.siblings or []):
            try:
                info = HfApi().dataset_info(name, revision=CONVERTED)
            except RevisionNotFoundError as error:
                raise PromptsError(
                    f"prompts: the dataset {name} has no files of prompts, which are {ALLOWED}, and the hub has not "
                    "converted it to Parquet"
                ) from error
    assert info.sha is not None, "the hub names the commit of a dataset that it describes"
    return info.sha


def _can_be_read(path: str) -> bool:
    ending = format_of(path).ending
    return bool(ending) and ending not in COMPANION_ENDINGS


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into errors of one sentence without the token."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise StorageError(
            f"prompts: the dataset {name} is gated: accept its terms on the hub and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise StorageError(f"prompts: the hub has no dataset {name} that this machine's HF_TOKEN can read") from error
    except errors.RevisionNotFoundError as error:
        raise StorageError(f"prompts: the dataset {name} has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise PromptsError(f"prompts: {name!r} is not the name of a dataset (organization/name)") from error
    except errors.OfflineModeIsEnabled as error:
        raise StorageError(
            f"prompts: HF_HUB_OFFLINE forbids requests to the hub, so the dataset {name} cannot be read; download it "
            "and name its folder"
        ) from error
    except (errors.HTTPError, OSError) as error:
        if is_refusal(error):
            raise StorageError(f"prompts: the hub refuses to show {name} to this machine's HF_TOKEN") from error
        raise StorageUnreachable(f"prompts: the dataset {name} cannot be read: the hub {trouble_of(error)}") from error
