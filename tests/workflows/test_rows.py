"""Rows into requests: whose value counts, which seeds come of it, and why a row is refused and its neighbours not."""

from __future__ import annotations

import pickle
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.families import FAMILIES, Family
from actors.request import ImageRequest
from tests.support.toy_job import make_job, recipe, rows_of, write_prompts
from workflows.plan import Shard
from workflows.prompts import find_prompt_files
from workflows.rows import RejectedRow, ignored_columns, read_shard


def read(tmp_path: Path, columns: dict[str, Any], *, shard_rows: int = 100, **changes: Any):
    """The requests and the rejected rows that a file of these columns makes."""
    path = write_prompts(tmp_path / "prompts.parquet", columns)
    shards = rows_of(make_job(path, tmp_path / "out", shard_rows=shard_rows, recipe=recipe(**changes)))
    return [r for rows in shards for r in rows.requests], [r for rows in shards for r in rows.rejected]


def values(requests: list[ImageRequest], name: str) -> list[Any]:
    return [getattr(request, name) for request in requests]


def reason(rejected: list[RejectedRow]) -> str:
    (row,) = rejected
    return row.reason


# ---- the job's values and the row's ----------------------------------------------------------------------------------


def test_a_row_without_values_has_the_jobs_values(tmp_path: Path) -> None:
    requests, rejected = read(tmp_path, {"prompt": ["a red square"]}, cfg_weights=(7.0,), temperature=0.5)

    assert rejected == []
    assert requests == [
        ImageRequest(
            image_id="prompts-000000000_0",
            prompt_id="prompts-000000000",
            image_index=0,
            prompt="a red square",
            negative_prompt=None,
            seed=requests[0].seed,
            cfg_weight=7.0,
            temperature=0.5,
            num_inference_steps=None,
        )
    ]


@pytest.mark.parametrize(
    ("column", "row_values", "expected"),
    [
        ("cfg_weight", [2.5, None], [2.5, 5.0]),
        ("cfg_weight", [3, None], [3.0, 5.0]),
        ("cfg_weight", [Decimal("2.5"), None], [2.5, 5.0]),
        ("temperature", [0.0, None], [0.0, 1.0]),
        ("negative_prompt", ["blurry", None], ["blurry", None]),
        ("negative_prompt", ["  blurry ", " "], ["blurry", None]),
    ],
)
def test_a_rows_own_value_replaces_the_jobs(
    tmp_path: Path, column: str, row_values: list[Any], expected: list[Any]
) -> None:
    requests, rejected = read(tmp_path, {"prompt": ["a", "b"], column: row_values})

    assert rejected == []
    assert values(requests, column) == expected


def test_a_rows_own_seed_replaces_the_jobs(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b"], "id": ["apple", "apple2"], "seed": pa.array([7, None], pa.uint64())}

    requests, _ = read(tmp_path, columns, seed=0)

    assert values(requests, "seed")[0] == 13678765753517355735  # of row seed 7, see test_noise.py


def test_seeds_of_the_whole_range_and_of_float_columns_are_allowed(tmp_path: Path) -> None:
    big = {"prompt": ["a", "b"], "id": ["x", "y"], "seed": pa.array([0, 2**64 - 1], pa.uint64())}
    floats = {"prompt": ["a", "b"], "id": ["x", "y"], "seed": [3.0, None]}
    whole = {"prompt": ["a", "b"], "id": ["x", "y"], "seed": [3, None]}

    assert read(tmp_path, big)[1] == []
    assert values(read(tmp_path, floats)[0], "seed") == values(read(tmp_path, whole)[0], "seed")


def test_settings_of_another_family_are_none(tmp_path: Path) -> None:
    requests, rejected = read(tmp_path, {"prompt": ["a"], "num_inference_steps": [-1]})

    assert rejected == []
    assert requests[0].num_inference_steps is None


# ---- the image's own seed --------------------------------------------------------------------------------------------


def test_an_image_seed_is_the_seed_of_the_image_at_every_weight(tmp_path: Path) -> None:
    seeds = pa.array([2**64 - 1, 0, None], pa.uint64())
    columns = {"prompt": ["a", "b", "c"], "id": ["a", "b", "apple"], "seed": [7, 7, None], "image_seed": seeds}

    requests, rejected = read(tmp_path, columns, cfg_weights=(1.0, 5.0))

    assert rejected == []
    derived = 8587172732758236984  # of the id apple, see test_seeds_and_ids_follow_the_rule
    assert values(requests, "seed") == [2**64 - 1] * 2 + [0] * 2 + [derived] * 2


@pytest.mark.parametrize(
    ("value", "kind", "fault"),
    [
        (-1, pa.int64(), "image_seed must be a whole number from 0 to 18446744073709551615, got -1"),
        (1.5, pa.float64(), "image_seed must be a whole number from 0 to 18446744073709551615, got 1.5"),
        (float("nan"), pa.float64(), "image_seed must be a whole number from 0 to 18446744073709551615, got nan"),
        (2.0**60, pa.float64(), "image_seed must be stored as uint64: a float cannot hold all 64 bits of a seed, got"),
    ],
)
def test_a_wrong_image_seed_rejects_its_row(tmp_path: Path, value: float, kind: pa.DataType, fault: str) -> None:
    columns = {"prompt": ["a", "b"], "id": ["bad", "good"], "image_seed": pa.array([value, None], kind)}

    requests, rejected = read(tmp_path, columns)

    assert values(requests, "prompt_id") == ["good"]
    assert fault in reason(rejected)


def test_an_image_seed_is_for_one_image_of_a_prompt(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b"], "id": ["own", "other"], "image_seed": pa.array([5, None], pa.uint64())}

    requests, rejected = read(tmp_path, columns, images_per_prompt=2)

    assert values(requests, "prompt_id") == ["other", "other"]
    assert reason(rejected) == (
        "image_seed is the seed of one image, and images_per_prompt is 2; give each image a row of its own, or set "
        "sampling.images_per_prompt: 1"
    )
    assert rejected[0].num_images == 2


# ---- seeds and ids ---------------------------------------------------------------------------------------------------


def test_seeds_and_ids_follow_the_rule(tmp_path: Path) -> None:
    requests, _ = read(tmp_path, {"prompt": ["a"], "id": ["apple"]}, images_per_prompt=2)

    # printf 'janus-batch seed 1\0000\0000\000apple' | sha256sum, the first 8 bytes little-endian; then \0001 for 1
    assert values(requests, "seed") == [8587172732758236984, 10725807821406489425]
    assert values(requests, "image_id") == ["apple_0", "apple_1"]


def test_a_sweep_renders_every_image_at_every_weight_with_one_seed(tmp_path: Path) -> None:
    requests, _ = read(tmp_path, {"prompt": ["a"], "id": ["x"]}, images_per_prompt=2, cfg_weights=(1.0, 2.5, 5.0))
    alone, _ = read(tmp_path, {"prompt": ["a"], "id": ["x"]}, images_per_prompt=2)

    assert values(requests, "image_id") == ["x_0_w1", "x_0_w2.5", "x_0_w5", "x_1_w1", "x_1_w2.5", "x_1_w5"]
    assert values(requests, "cfg_weight") == [1.0, 2.5, 5.0] * 2
    assert values(requests, "seed") == [alone[0].seed] * 3 + [alone[1].seed] * 3


def test_a_row_with_a_weight_of_its_own_is_not_swept(tmp_path: Path) -> None:
    requests, _ = read(tmp_path, {"prompt": ["a", "b"], "cfg_weight": [3.0, None]}, cfg_weights=(1.0, 5.0))

    assert values(requests, "cfg_weight") == [3.0, 1.0, 5.0]


def test_with_ids_neither_order_nor_shard_size_changes_a_request(tmp_path: Path) -> None:
    ids = [f"row {n}" for n in range(30)]
    shuffled = random.Random(5).sample(ids, len(ids))
    columns = [{"id": order, "prompt": [f"prompt of {i}" for i in order]} for order in (ids, shuffled)]

    first, _ = read(tmp_path, columns[0], shard_rows=100, images_per_prompt=2)
    second, _ = read(tmp_path, columns[1], shard_rows=7, images_per_prompt=2)

    assert set(first) == set(second)
    assert len(first) == len(second) == 60


def test_without_ids_the_shard_size_changes_no_request(tmp_path: Path) -> None:
    columns = {"prompt": [f"prompt {n}" for n in range(30)]}

    assert read(tmp_path, columns, shard_rows=100) == read(tmp_path, columns, shard_rows=7)


def test_no_two_images_of_a_job_share_a_seed(tmp_path: Path) -> None:
    requests, _ = read(tmp_path, {"prompt": ["the same"] * 100}, images_per_prompt=10)

    assert len(set(values(requests, "seed"))) == 1000


def test_whole_number_ids_are_text(tmp_path: Path) -> None:
    requests, _ = read(tmp_path, {"prompt": ["a", "b"], "id": [12, -3]})

    assert values(requests, "prompt_id") == ["12", "-3"]


def test_rows_without_ids_are_named_after_their_file_and_row(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts/sub/v1.2.parquet", {"prompt": ["a", "b"]})
    write_prompts(tmp_path / "prompts/sub/v1.3.parquet", {"prompt": ["a"]})

    shards = rows_of(make_job(tmp_path / "prompts", tmp_path / "out", shard_rows=1))

    ids = [request.prompt_id for rows in shards for request in rows.requests]
    assert ids == ["sub~v1.2-000000000", "sub~v1.2-000000001", "sub~v1.3-000000000"]


def test_rows_of_a_file_whose_name_is_not_a_valid_id_are_named_after_its_shards(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts" / ("long" * 30) / ("name" * 30) / "a.parquet", {"prompt": ["a", "b"]})

    (rows,) = rows_of(make_job(tmp_path / "prompts", tmp_path / "out"))

    assert [request.prompt_id for request in rows.requests] == [
        f"{rows.shard.id.rsplit('-', 3)[0]}-00000000{n}" for n in range(2)
    ]


# ---- invalid rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("prompt", None, "prompt is null"),
        ("prompt", "", "prompt is empty"),
        ("prompt", " \t\n\u00a0\u3000", "prompt is empty"),
        (
            "cfg_weight",
            0.0,
            "cfg_weight must be from 1 to 10 (1 is unguided), got 0; sampling.allow_any_cfg_weight: tr",
        ),
        (
            "cfg_weight",
            11.0,
            "cfg_weight must be from 1 to 10 (1 is unguided), got 11; sampling.allow_any_cfg_weight: ",
        ),
        ("cfg_weight", float("nan"), "cfg_weight must be a finite number, got nan"),
        ("cfg_weight", float("inf"), "cfg_weight must be a finite number, got inf"),
        ("temperature", -0.5, "temperature must be a finite number of at least 0 (0 is greedy), got -0.5"),
        ("temperature", float("nan"), "temperature must be a finite number of at least 0 (0 is greedy), got nan"),
        ("seed", -1, "seed must be a whole number from 0 to 18446744073709551615, got -1"),
        ("seed", 1.5, "seed must be a whole number from 0 to 18446744073709551615, got 1.5"),
        ("seed", float("nan"), "seed must be a whole number from 0 to 18446744073709551615, got nan"),
        ("id", None, "id is null; in a file with an id column every row needs one"),
        ("id", "", "id must be printable text without / or \\ that does not start with a dot, got ''"),
        (
            "id",
            "../../etc/passwd",
            "id must be printable text without / or \\ that does not start with a dot, got '../../etc/passwd'",
        ),
        ("id", "a\\b", "id must be printable text without / or \\ that does not start with a dot, got 'a\\\\b'"),
        ("id", "..", "id must be printable text without / or \\ that does not start with a dot, got '..'"),
        ("id", "a\0b", "id must be printable text without / or \\ that does not start with a dot, got 'a\\x00b'"),
        ("id", "a\nb", "id must be printable text without / or \\ that does not start with a dot, got 'a\\nb'"),
        (
            "id",
            "\u202egnp",
            "id must be printable text without / or \\ that does not start with a dot, got '\\u202egnp'",
        ),
        ("id", "é" * 91, "id must have at most 180 bytes in a file name, got 182"),
        ("id", "#" * 61, "id must have at most 180 bytes in a file name, got 183"),
        ("id", "good", "id must be unique, an earlier row of this shard has 'good' too"),
    ],
)
def test_an_invalid_row_is_rejected_alone_and_with_its_reason(
    tmp_path: Path, column: str, value: Any, expected: str
) -> None:
    good = {"prompt": "a", "id": "good", "cfg_weight": 2.0, "temperature": 1.0, "seed": 1}
    rows = [good, {**good, "id": "bad", column: value}, {**good, "id": "other"}]
    columns = {name: [row[name] for row in rows] for name in good}

    requests, rejected = read(tmp_path, columns, images_per_prompt=3)

    assert reason(rejected).startswith(expected)
    assert values(requests, "image_id") == [f"{i}_{k}" for i in ("good", "other") for k in range(3)]
    assert (rejected[0].row, rejected[0].num_images, rejected[0].image_id) == (1, 3, None)
    assert rejected[0].prompt == (value if column == "prompt" else "a")


def test_a_rejected_row_counts_every_image_it_asked_for(tmp_path: Path) -> None:
    columns = {"prompt": ["", ""], "cfg_weight": [2.0, None]}

    _, rejected = read(tmp_path, columns, cfg_weights=(1.0, 3.0, 5.0), images_per_prompt=2)

    assert [row.num_images for row in rejected] == [2, 6]


def test_any_weight_is_allowed_if_the_job_lifts_the_limits(tmp_path: Path) -> None:
    columns = {"prompt": ["a"] * 4, "cfg_weight": [0.0, -2.0, 25.0, float("inf")]}

    requests, rejected = read(tmp_path, columns, allow_any_cfg_weight=True)

    assert values(requests, "cfg_weight") == [0.0, -2.0, 25.0]
    assert reason(rejected) == "cfg_weight must be a finite number, got inf"


def test_the_id_of_a_rejected_row_is_free_for_a_later_one(tmp_path: Path) -> None:
    requests, rejected = read(tmp_path, {"prompt": ["", "b"], "id": ["x", "x"]})

    assert reason(rejected) == "prompt is empty"
    assert values(requests, "prompt") == ["b"]


def test_the_columns_of_other_families_are_ignored_by_name() -> None:
    assert ignored_columns("toy") == ["num_inference_steps"]
    assert ignored_columns("janus") == ["num_inference_steps"]


def test_steps_are_a_whole_number_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_steps = Family(engine="", sampler="", default_cfg_weight=2.0, settings={"num_inference_steps": 30})
    monkeypatch.setitem(FAMILIES, "family with steps", with_steps)
    columns = {"prompt": ["a"] * 5, "num_inference_steps": [0, 1, None, 1000, 1001], "temperature": ["hot"] * 5}
    path = write_prompts(tmp_path / "a.parquet", columns)
    job = make_job(
        path, tmp_path / "out", recipe=recipe(family="family with steps", temperature=None, num_inference_steps=30)
    )

    rows = read_shard(job, Shard(file=find_prompt_files(path, {}, ignored_columns=["temperature"])[0], start=0, stop=5))

    assert values(rows.requests, "num_inference_steps") == [1, 30, 1000]
    assert values(rows.requests, "temperature") == [None] * 3
    assert [row.reason for row in rows.rejected] == [
        f"num_inference_steps must be a whole number from 1 to 1000, got {n}" for n in (0, 1001)
    ]


# ---- odd text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "a 🦊 with a 👩‍👩‍👧‍👦",
        "قطة حمراء",
        "\u202eתפוח\u202c",
        "NUL \0 inside",
        "e\u0301",
        "line\nbreak\ttab",
        "\ufeffBOM",
    ],
)
def test_odd_text_reaches_the_engine_unchanged(tmp_path: Path, prompt: str) -> None:
    requests, rejected = read(tmp_path, {"prompt": [prompt], "id": ["ünï 🦊"]})

    assert rejected == []
    assert requests[0].prompt == prompt
    assert requests[0].image_id == "ünï 🦊_0"


def invalid_utf8(*values: bytes) -> pa.Array:
    """A text column with unchecked bytes, as a writer in C++ can produce."""
    return pa.array(values, pa.binary()).view(pa.string())


@pytest.mark.parametrize("column", ["prompt", "id", "negative_prompt"])
def test_text_that_is_not_utf8_rejects_its_row_alone(tmp_path: Path, column: str) -> None:
    columns = {"prompt": ["a", "b", "c"], "id": ["x", "y", "z"], column: invalid_utf8(b"ok", b"caf\xe9", b"ok too")}

    requests, rejected = read(tmp_path, columns)

    assert reason(rejected) == f"{column} is not valid UTF-8 text"
    assert len(requests) == 2


def test_a_carried_column_with_text_that_is_not_utf8_stays_readable(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b", "c"], "source": invalid_utf8(b"ok", b"caf\xe9", "é".encode())}
    path = write_prompts(tmp_path / "a.parquet", columns)

    (rows,) = rows_of(make_job(path, tmp_path / "out"))

    assert rows.carried["source"].to_pylist() == ["ok", "caf\ufffd", "é"]


# ---- carried columns -------------------------------------------------------------------------------------------------


def test_columns_that_are_not_ours_are_carried_row_by_row(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "", "c"], "id": ["x", "y", "z"], "tags": [["p"], [], None], "score": [0.1, 0.2, 0.3]}
    path = write_prompts(tmp_path / "a.parquet", columns)

    (rows,) = rows_of(make_job(path, tmp_path / "out"))

    assert rows.carried.to_pydict() == {"tags": [["p"], [], None], "score": [0.1, 0.2, 0.3]}
    assert rows.row_of == {"x": 0, "z": 2}


def test_the_rows_of_a_shard_can_be_sent_to_another_process(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": ["a", ""], "n": [1, 2]})
    (rows,) = rows_of(make_job(path, tmp_path / "out"))

    assert pickle.loads(pickle.dumps(rows)) == rows
