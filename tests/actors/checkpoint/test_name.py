"""What people write or paste as a model's name, and what it leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.checkpoint.name import read_model_name
from actors.errors import CheckpointError, NoSuchFolder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.mark.parametrize(
    ("written", "name", "revision"),
    [
        ("org/name", "org/name", None),
        ("  org/name\n", "org/name", None),
        ("org/name/", "org/name", None),
        ("org/name/vae", "org/name/vae", None),
        ("org/name@v2", "org/name", "v2"),
        ("models--org--name", "org/name", None),
        ("models--org--name/", "org/name", None),
        ("https://huggingface.co/org/name", "org/name", None),
        ("http://www.huggingface.co/org/name/", "org/name", None),
        ("HTTPS://HuggingFace.co/org/name?library=transformers#usage", "org/name", None),
        ("huggingface.co/org/name", "org/name", None),
        ("hf.co/org/name.git", "org/name", None),
        ("https://huggingface.co/org/name/tree/main", "org/name", "main"),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F3", "org/name", "refs/pr/3"),
        ("https://huggingface.co/org/name/tree/v2/vae", "org/name/vae", "v2"),
        ("https://huggingface.co/org/name/blob/main/config.json", "org/name", "main"),
        (f"https://huggingface.co/org/name/commit/{COMMIT}", "org/name", COMMIT),
        ("hf://org/name", "org/name", None),
        ("hf://models/org/name@main/vae", "org/name/vae", "main"),
        ("janus-shapes/", "janus-shapes", None),
        ("toy ", "toy", None),
        ("s3://bucket/name/", "s3://bucket/name/", None),
        ("/nothing/here/", "/nothing/here/", None),
        ("./nothing", "./nothing", None),
    ],
)
def test_every_spelling_becomes_one(written: str, name: str, revision: str | None) -> None:
    found = read_model_name(written, None)
    assert (found.name, found.revision) == (name, revision)
    again = read_model_name(found.name, found.revision)
    assert again == found


@pytest.mark.parametrize(
    "written",
    [
        "https://huggingface.co",
        "https://huggingface.co/org",
        "https://huggingface.co/datasets/org/name",
        "hf://datasets/org/name",
        "hf.co/spaces/org/name/",
    ],
)
def test_a_page_of_something_else_is_refused(written: str) -> None:
    with pytest.raises(CheckpointError, match=r"is not the page of a model, such as huggingface.co/organization/name"):
        read_model_name(written, None)


@pytest.mark.parametrize("written", ["", "  ", "a\0b", "x" * 300, "x/" * 3000])
def test_a_name_that_can_be_none_is_refused(written: str) -> None:
    with pytest.raises(
        NoSuchFolder, match=r"must be a path, a URL or a hub id, got '.*; allowed are a folder"
    ) as caught:
        read_model_name(written, None)
    assert len(str(caught.value)) < 400


def test_two_revisions_are_refused_and_one_twice_is_not() -> None:
    assert read_model_name("org/name@v2", "v2").revision == "v2"
    with pytest.raises(CheckpointError, match=r"names the revision 'v2', model.revision 'v3': give one of them"):
        read_model_name("org/name@v2", "v3")


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A repository in a cache of the hub, with one snapshot and no refs."""
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    return repository


@pytest.mark.parametrize("inside", ["", "snapshots", f"snapshots/{COMMIT}"])
def test_a_folder_of_the_hubs_cache_is_its_snapshot(cached: Path, inside: str) -> None:
    assert Path(read_model_name(str(cached / inside), None).name) == cached / "snapshots" / COMMIT


def test_of_several_snapshots_that_of_main_is_meant(cached: Path) -> None:
    (cached / "snapshots" / OTHER).mkdir()
    with pytest.raises(CheckpointError, match=r"holds 2 snapshots and its main branch is none of them; name one"):
        read_model_name(str(cached), None)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(OTHER)
    assert read_model_name(str(cached), None).name == str(cached / "snapshots" / OTHER)


@pytest.mark.parametrize("folder", ["hub", "."])
def test_a_whole_cache_lists_its_models(cached: Path, tmp_path: Path, folder: str) -> None:
    with pytest.raises(CheckpointError, match=r"is a cache of the hub and not a model; it holds org/name$"):
        read_model_name(str(tmp_path / folder), None)


def test_a_folder_that_exists_wins_over_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "huggingface.co" / "org" / "name").mkdir(parents=True)
    (tmp_path / "models--mine--own").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_model_name("huggingface.co/org/name", None).name == "huggingface.co/org/name"
    assert read_model_name("models--mine--own", None).name == "models--mine--own"
