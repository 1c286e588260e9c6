"""Datasets of the hub as prompts; the client reads its environment once, hence processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dataset_server import DatasetServer, commit_of
from tests.support.toy_job import write_prompts

ROOT = Path(__file__).parents[3]
TOKEN = "hf_a_token_of_the_tests_only"

ASK = """
import json, sys
from actors.errors import InputError, JobFailure
from workflows.prompt_files.hub import pinned
from workflows.prompts import find_prompt_files, read_rows

for location in sys.argv[1:]:
    try:
        location = pinned(location)
        files = find_prompt_files(location, {"endpoint_url": "http://127.0.0.1:1"})
        rows = [read_rows(file, 0, file.num_rows, {})["prompt"].to_pylist() for file in files]
        print(json.dumps({"location": location, "rows": dict(zip([file.name for file in files], rows))}))
    except (InputError, JobFailure) as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[DatasetServer]:
    """org/art with two splits and a readme, at two revisions; org/csv; org/zip, which the hub converted; org/none."""
    folders = {}
    for name, revision, files in [
        (
            "org/art",
            "main",
            {"data/train-00000-of-00002": ["a"], "data/train-00001-of-00002": ["b"]},
        ),
        ("org/art", "v1", {"data/train": ["old"]}),
        ("org/zip", "main", {}),
        ("org/zip", "refs/convert/parquet", {"default/train/0000": ["converted"], "default/test/0000": ["d"]}),
        ("org/csv", "main", {}),
        ("org/none", "main", {}),
    ]:
        folder = folders[name, revision] = tmp_path / "hub" / f"{name}-{revision}".replace("/", "-")
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("a card")
        for file, prompts in files.items():
            write_prompts(folder / f"{file}.parquet", {"prompt": prompts})
    (folders["org/zip", "main"] / "images.zip").write_bytes(b"PK")
    (folders["org/csv", "main"] / "train.csv").write_text("prompt\na cat\n")
    write_prompts(folders["org/art", "main"] / "data/test.parquet", {"prompt": ["c"]})
    (folders["org/art", "main"] / "metadata.jsonl").write_text("{}\n")
    with DatasetServer(folders) as server:
        yield server


def ask(hub: DatasetServer, home: Path, *locations: str, **env: str) -> list[dict[str, Any]]:
    """What a fresh process finds at some locations."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env = {**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_TOKEN": TOKEN, **env}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *locations], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_dataset_its_splits_and_its_folders_are_pinned_to_a_commit(hub: DatasetServer, tmp_path: Path) -> None:
    commit = commit_of(hub.revisions["org/art", "main"])
    train = {"data/train-00000-of-00002.parquet": ["a"], "data/train-00001-of-00002.parquet": ["b"]}
    expected = {
        "hf://datasets/org/art/train": ("/train", train),
        "hf://datasets/org/art": ("", {"data/test.parquet": ["c"], **train}),
        "hf://datasets/org/art@main/data/test.parquet": ("/data/test.parquet", {"test.parquet": ["c"]}),
        f"hf://datasets/org/art@{commit}/data/train*": ("/data/train*", {k[5:]: v for k, v in train.items()}),
    }
    assert ask(hub, tmp_path, *expected, "hf://datasets/org/art@v1/train") == [
        *({"location": f"hf://datasets/org/art@{commit}{path}", "rows": rows} for path, rows in expected.values()),
        {
            "location": f"hf://datasets/org/art@{commit_of(hub.revisions['org/art', 'v1'])}/train",
            "rows": {"data/train.parquet": ["old"]},
        },
    ]


def test_other_formats_and_the_hubs_own_conversion_are_read(hub: DatasetServer, tmp_path: Path) -> None:
    csv, converted = ask(hub, tmp_path, "hf://datasets/org/csv/train", "hf://datasets/org/zip/train")
    assert csv["rows"] == {"train.csv": ["a cat"]}
    assert converted == {
        "location": f"hf://datasets/org/zip@{commit_of(hub.revisions['org/zip', 'refs/convert/parquet'])}/train",
        "rows": {"default/train/0000.parquet": ["converted"]},
    }


def test_what_is_missing_is_one_sentence(hub: DatasetServer, tmp_path: Path) -> None:
    expected = {
        "hf://datasets/org/gone": "the hub has no dataset org/gone that this machine's HF_TOKEN can read",
        "hf://datasets/org/art@v9": "prompts: the dataset org/art has no revision 'v9'",
        "hf://datasets/org/art/val": "has neither a split nor a folder `val`; its files are data/test.parquet, data/",
        "hf://datasets/org/none": "prompts: the dataset org/none has no files of prompts, which are Parquet, CSV",
        "hf://datasets/art": "prompts: a dataset of the hub is hf://datasets/ORGANIZATION/NAME[@REVISION][/SPLIT]",
        "hf://org/art": "prompts: a dataset of the hub is hf://datasets/",
    }
    for answer, message in zip(ask(hub, tmp_path, *expected), expected.values(), strict=True):
        assert message in answer["error"]
        assert "\n" not in answer["error"]


def test_without_the_hub_the_error_says_so(hub: DatasetServer, tmp_path: Path) -> None:
    (offline,) = ask(hub, tmp_path, "hf://datasets/org/art", HF_HUB_OFFLINE="1")
    assert offline["error"].startswith("prompts: HF_HUB_OFFLINE forbids requests to the hub, so the dataset org/art")
    hub.error = (503, "")
    (busy,) = ask(hub, tmp_path, "hf://datasets/org/art")
    assert busy == {
        "error": "prompts: the dataset org/art cannot be read: the hub answered 503",
        "kind": "StorageUnreachable",
    }
