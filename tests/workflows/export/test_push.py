"""Uploads of exports, by the hub's own client to the hub of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from actors.errors import InputError
from tests.support.exports import export, finished, finished_with, prompts_of, score, score_of
from tests.support.hub_server import TOKEN, HubServer
from tests.support.toy_job import bytes_of, make_job
from workflows.export.push import PushError
from workflows.export.rules import Rules
from workflows.scores.parts import Scorer

REPOSITORY = "org/foxes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({}) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def uploaded(hub: HubServer) -> dict[str, bytes]:
    return {name: data for name, data in hub.datasets[REPOSITORY].items() if name != ".gitattributes"}


def exported(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in bytes_of(folder).items() if not name.startswith(".export/")}


@pytest.mark.parametrize("layout", ["parquet", "imagefolder", "webdataset"])
def test_a_new_repository_is_private_and_holds_the_export(hub: HubServer, tmp_path: Path, layout: str) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))

    done = export(job, tmp_path / "ds", layout, push_to=REPOSITORY)

    assert uploaded(hub) == exported(tmp_path / "ds")
    assert hub.private == {REPOSITORY}
    assert done.address == f"{hub.url}/datasets/{REPOSITORY}"
    assert f"Bearer {TOKEN}" in hub.tokens


def test_large_files_are_uploaded_without_xet(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    hub.lfs = True

    export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "parquet", push_to=REPOSITORY)

    assert uploaded(hub) == exported(tmp_path / "ds")


def test_a_second_push_uploads_what_changed_and_removes_what_is_gone(hub: HubServer, tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path, 12), tmp_path / "out"))
    score(job, Scorer(name="clip", version="1"), similarity=score_of)
    rules = Rules(where=("clip > 0.5",))
    export(job, tmp_path / "one", "imagefolder", push_to=REPOSITORY)
    mine = dict.fromkeys(("LICENSE", "assets/banner.png", "images/banner.png", "data/mine.csv"), b"mine")
    hub.datasets[REPOSITORY] |= mine

    done = export(job, tmp_path / "two", "imagefolder", rules=rules, push_to=REPOSITORY)
    num_commits = hub.num_commits
    export(job, tmp_path / "two", "imagefolder", rules=rules, push_to=REPOSITORY)

    assert done.removed["--where clip > 0.5"] > 0
    assert uploaded(hub) == exported(tmp_path / "two") | mine
    assert hub.num_commits == num_commits


def test_an_interrupted_upload_is_resumed_by_the_same_command(hub: HubServer, tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]})
    hub.commits_left = 0

    with pytest.raises(PushError, match=r"--push-to org/foxes: .*500") as caught:
        export(job, tmp_path / "ds", "parquet", push_to=REPOSITORY)
    hub.commits_left = None
    done = export(job, tmp_path / "ds", "parquet", push_to=REPOSITORY)

    assert "run the same command again" in caught.value.advice
    assert (done.num_shards_before, uploaded(hub)) == (1, exported(tmp_path / "ds"))


def test_a_repository_with_other_files_is_left_alone(hub: HubServer, tmp_path: Path) -> None:
    hub.datasets[REPOSITORY] = {"README.md": b"---\nlicense: mit\n---\n", "data/thesis.parquet": b"precious"}

    with pytest.raises(InputError, match="the repository holds files that no export wrote"):
        export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "parquet", push_to=REPOSITORY)
    assert hub.datasets[REPOSITORY]["data/thesis.parquet"] == b"precious"
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_without_access_is_refused_before_anything_is_written(
    hub: HubServer, tmp_path: Path, status: int
) -> None:
    hub.error = (status, "")

    with pytest.raises(InputError, match=f"the hub refuses it with status {status}; the token needs write") as caught:
        export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "parquet", push_to=REPOSITORY)
    assert TOKEN not in str(caught.value)
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("foxes", "takes ORG/NAME, got foxes"), ("a/b/c", "takes ORG/NAME"), ("org/a b", "takes ORG/NAME")],
)
def test_a_name_that_is_no_repository_is_refused(hub: HubServer, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--push-to {message}"):
        export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "parquet", push_to=name)
    assert hub.requests == []


def test_without_a_token_nothing_is_asked(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))

    with pytest.raises(InputError, match="--push-to needs a token of the hub with write access, in HF_TOKEN"):
        export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "parquet", push_to=REPOSITORY)
    assert hub.requests == []


def test_a_destination_in_a_store_is_refused(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--push-to uploads a folder of a local disk, got memory://ds"):
        export(finished_with(tmp_path, {"id": ["a"]}), "memory://ds", "parquet", push_to=REPOSITORY)


def test_a_hub_that_does_not_answer_is_a_failure(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(PushError, match="the hub cannot be reached"):
        export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "parquet", push_to=REPOSITORY)
