"""Upload an export to a dataset repository of the Hugging Face hub.

The hub's library uploads in several commits and skips what the repository holds, so an interrupted upload resumes. A
new repository is private: its owner looks at the dataset and then decides who sees it. The token comes from the
environment (HF_TOKEN) or from `hf auth login`.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import DatasetCard, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from actors.errors import InputError, JobFailure, one_line, reason_line
from workflows.export.destination import CARD_FILE, MARKS, is_of_an_export
from workflows.export.layouts.layout import ExportLayout
from workflows.storage.errors import does_not_answer
from workflows.storage.store import DRAFT, Storage

NOT_UPLOADED = [f"{MARKS}/*", f"*{DRAFT}"]
OF_THE_HUB = {".gitattributes"}  # which it adds to every repository


class PushError(JobFailure):
    """The hub did not take the upload."""

    advice = "run the same command again to resume; what is uploaded is kept"


def open_repository(dest: Storage, name: str) -> None:
    """Create the dataset repository, private, unless it exists. Raises InputError for a name, a token or a repository
    that cannot be used, before an export begins, and PushError if the hub does not answer."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--push-to takes ORG/NAME: {reason_line(error)}") from error
    if name.count("/") != 1:
        raise InputError(f"--push-to takes ORG/NAME, got {one_line(name)}")
    if get_token() is None:
        raise InputError("--push-to needs a token of the hub with write access, in HF_TOKEN or from `hf auth login`")
    if not dest.is_local:
        raise InputError(f"--push-to uploads a folder of a local disk, got {dest.url}")
    api = HfApi()
    with _hub_errors(name):
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        held = set(api.list_repo_files(name, repo_type="dataset")) - OF_THE_HUB
        if held and not _is_ours(api, name, held):
            raise InputError(f"--push-to {name}: the repository holds files that no export wrote; push into a new one")


def push_export(dest: Storage, name: str, layout: ExportLayout) -> str:
    """Upload an export, and remove data files from the repository that it does not hold. Returns its address."""
    api = HfApi()
    with _hub_errors(name):
        url = api.upload_folder(
            repo_id=name,
            folder_path=dest.root,
            repo_type="dataset",
            commit_message="Export of janus-batch",
            ignore_patterns=list(NOT_UPLOADED),
            delete_patterns=_stale_files(api, dest, name, layout),
        )
    return str(getattr(url, "repo_url", url))


def _stale_files(api: HfApi, dest: Storage, name: str, layout: ExportLayout) -> list[str]:
    """The repository's data files that the export does not hold any more."""
    held = {file for file in api.list_repo_files(name, repo_type="dataset") if is_of_an_export(file, layout)}
    return [glob.escape(file) for file in sorted(held.difference(dest.walk_names()))]


def _is_ours(api: HfApi, name: str, held: set[str]) -> bool:
    """Whether the repository's dataset card is one of janus-batch."""
    if CARD_FILE not in held:
        return False
    card = DatasetCard.load(api.hf_hub_download(name, CARD_FILE, repo_type="dataset"))
    return "janus_batch" in card.data.to_dict()


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn the hub's refusals into an InputError and its failures into a PushError. Neither has the token."""
    try:
        yield
    except LocalEntryNotFoundError as error:  # the client asked and got no answer
        raise PushError(f"--push-to {name}: the hub cannot be reached") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403, 404):
            raise InputError(
                f"--push-to {name}: the hub refuses it with status {status}; the token needs write access to {name}"
            ) from error
        raise PushError(f"--push-to {name}: {reason_line(error)}") from error
    except Exception as error:
        if not does_not_answer(error):
            raise
        raise PushError(f"--push-to {name}: the hub cannot be reached: {reason_line(error)}") from error
