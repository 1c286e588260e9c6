"""Scores as data: committed once, for one scorer, and joined to the images whose bytes were scored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.support.servers.s3 import S3Server
from workflows.scores.parts import (
    SCORER_KEY,
    Scorer,
    ScoresError,
    claim_scores,
    hold_scores,
    read_scorer,
    read_scores,
    scored_parts,
    scorer_names,
    scores_of_rows,
    write_scores,
)
from workflows.storage.damage import DamagedFileError
from workflows.storage.lease import OutputInUseError
from workflows.storage.store import Storage

CLIP = Scorer(
    name="clip",
    version="1",
    checkpoint="openai/clip-vit-base-patch32",
    revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    weights_sha256="a" * 64,
    settings={"embeddings": True, "dtype": "float32"},
)


def scores_of(**columns: Any) -> pa.Table:
    return pa.table({"image_id": ["a_0", "b_0"], "image_sha256": ["1" * 64, "2" * 64], **columns})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "out"))


def test_scores_are_read_as_they_were_written(storage: Storage) -> None:
    vectors = pa.array([[0.5, 1.0], [0.0, -1.0]], pa.list_(pa.float32(), 2))
    table = scores_of(similarity=pa.array([0.25, 0.5], pa.float32()), embedding=vectors)

    assert write_scores(storage, CLIP, "p-1", table)

    assert read_scores(storage, "clip", "p-1").equals(table)
    assert read_scores(storage, "clip", "p-1", ["similarity"]).column_names == [
        "image_id",
        "image_sha256",
        "similarity",
    ]
    assert read_scorer(storage, "clip", "p-1") == CLIP
    assert (scorer_names(storage), scored_parts(storage, "clip")) == (["clip"], ["p-1"])


def test_an_output_without_scores_has_no_scorers(storage: Storage) -> None:
    assert scorer_names(storage) == []
    assert scored_parts(storage, "clip") == []


def test_the_folder_is_a_dataset_for_pyarrow(storage: Storage) -> None:
    claim_scores(storage, CLIP)
    for part in ("p-1", "p-2"):
        write_scores(storage, CLIP, part, scores_of(similarity=[0.25, 0.5]))

    assert pyarrow.dataset.dataset(storage.path("scores/clip")).to_table()["similarity"].to_pylist() == [0.25, 0.5] * 2


def test_the_first_of_two_attempts_wins(storage: Storage) -> None:
    assert write_scores(storage, CLIP, "p-1", scores_of(similarity=[0.25, 0.5]))
    assert write_scores(storage, CLIP, "p-1", scores_of(similarity=[0.25, 0.5]))
    assert not write_scores(storage, CLIP, "p-1", scores_of(similarity=[0.5, 0.25]))

    assert read_scores(storage, "clip", "p-1")["similarity"].to_pylist() == [0.25, 0.5]


def test_scores_are_committed_once_on_s3(s3_server: S3Server, s3_folder: str) -> None:
    storage = Storage(s3_folder, s3_server.storage_options)
    claim_scores(storage, CLIP)
    claim_scores(storage, CLIP)

    assert write_scores(storage, CLIP, "p-1", scores_of(similarity=[0.25, 0.5]))
    assert not write_scores(storage, CLIP, "p-1", scores_of(similarity=[0.5, 0.25]))
    assert (scorer_names(storage), scored_parts(storage, "clip")) == (["clip"], ["p-1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"version": "2"},
            r"scores/clip holds scores with version = '1', these have '2'; give the scores another name with --name",
        ),
        ({"weights_sha256": "b" * 64}, r"with weights_sha256 = 'aaa.*, these have 'bbb"),
        ({"settings": {"dtype": "float32"}}, r"with the setting embeddings = True, these have None"),
    ],
)
def test_a_folder_holds_the_scores_of_one_scorer(storage: Storage, change: dict[str, Any], message: str) -> None:
    """Also if its claim was deleted."""
    claim_scores(storage, CLIP)
    claim = storage.read("scores/clip/_scorer.json")
    write_scores(storage, CLIP, "p-1", scores_of(similarity=[0.25, 0.5]))
    storage.remove("scores/clip/_scorer.json")

    with pytest.raises(ScoresError, match=message):
        claim_scores(storage, dataclasses.replace(CLIP, **change))

    claim_scores(storage, CLIP)
    assert storage.read("scores/clip/_scorer.json") == claim


def test_a_claim_without_scores_is_replaced(storage: Storage) -> None:
    """Such as that of a user's function that failed and was corrected."""
    claim_scores(storage, CLIP)
    claim_scores(storage, dataclasses.replace(CLIP, version="2"))

    write_scores(storage, dataclasses.replace(CLIP, version="2"), "p-1", scores_of(similarity=[0.25, 0.5]))

    with pytest.raises(ScoresError, match="version = '2', these have '1'"):
        claim_scores(storage, CLIP)


@pytest.mark.parametrize("name", ["", "Clip", "../clip", "a b", "1clip", "clip.score", "clip-large", "x" * 65])
def test_a_name_that_is_no_plain_word_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(ScoresError, match="a scorer's name has lower-case letters, digits and _"):
        claim_scores(storage, Scorer(name=name, version="1"))


@pytest.mark.parametrize("name", ["prompt", "seed", "judge_score"])
def test_a_name_of_a_column_of_the_manifest_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(ScoresError, match=f"{name} is a column of the manifest; .* with --name"):
        claim_scores(storage, Scorer(name=name, version="1"))


def test_a_claim_without_scores_is_no_scorer(storage: Storage) -> None:
    claim_scores(storage, CLIP)

    assert scorer_names(storage) == []


def test_a_name_is_checked_before_its_folder_is_held(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match="a scorer's name"), hold_scores(storage, "../../elsewhere"):
        pass

    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_name_are_refused(storage: Storage) -> None:
    message = r"/scores/clip is being written by score clip on .* give the scores another name with --name"
    with (
        hold_scores(storage, "clip"),
        pytest.raises(OutputInUseError, match=message),
        hold_scores(storage, "clip"),
    ):
        pass


def test_nan_is_no_score(storage: Storage) -> None:
    for number, kind in enumerate((pa.float16(), pa.float32(), pa.float64())):
        write_scores(storage, CLIP, f"p-{number}", scores_of(similarity=pa.array([float("nan"), 0.5]).cast(kind)))

        column = read_scores(storage, "clip", f"p-{number}")["similarity"]
        assert (column.to_pylist(), column.type) == ([None, 0.5], kind)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "scorer clip must give at least one column of scores, got none"),
        ({"x": [{"a": 1}, {"a": 2}]}, "column `x` must hold numbers, text, booleans or vectors, got struct"),
        ({"x": [["a"], ["b"]]}, "column `x` must hold numbers, text, booleans or vectors, got list"),
    ],
)
def test_columns_that_are_no_scores_are_refused(storage: Storage, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoresError, match=message):
        write_scores(storage, CLIP, "p-1", scores_of(**columns))


def test_a_score_belongs_to_the_bytes_of_its_image() -> None:
    rows = pa.table({"image_id": ["b_0", "a_0", "c_0", "a_0"], "image_sha256": [d * 64 for d in "2139"]})

    joined = scores_of_rows(rows, scores_of(similarity=[0.25, 0.5]))

    assert joined.to_pydict() == {"similarity": [0.5, 0.25, None, None]}


@pytest.mark.parametrize("metadata", [None, b"", b"{}", b'{"name": "clip", "version": 1}', b"[]", b"\xff"])
def test_a_part_that_does_not_name_its_scorer_is_damaged(storage: Storage, metadata: bytes | None) -> None:
    table = scores_of(similarity=[0.25, 0.5])
    (Path(storage.root) / "scores/clip").mkdir(parents=True)
    if metadata is not None:
        table = table.replace_schema_metadata({SCORER_KEY: metadata})
    pq.write_table(table, storage.path("scores/clip/p-1.parquet"))

    with pytest.raises(DamagedFileError, match=r"scores/clip/p-1.parquet is damaged: the scorer's "):
        read_scorer(storage, "clip", "p-1")


def test_a_part_without_keys_is_damaged(storage: Storage) -> None:
    (Path(storage.root) / "scores/clip").mkdir(parents=True)
    pq.write_table(pa.table({"image_id": ["a"], "similarity": [1.0]}), storage.path("scores/clip/p-1.parquet"))

    with pytest.raises(DamagedFileError, match=r"0 columns `image_sha256`.*remove the file, and `janus-batch score`"):
        read_scores(storage, "clip", "p-1")
