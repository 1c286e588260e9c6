"""Reports of outputs with odd or damaged tables: a page or one of our own errors, never a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import InputError
from tests.support import toy_job
from workflows.job import RenderJob
from workflows.output.manifest import MANIFEST_SCHEMA
from workflows.report.write import write_report
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

YEAR_10000 = 253402300799000000  # microseconds: 9999-12-31 23:59:59 UTC, the year 10000 in Berlin


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """A rendered toy job with two images and a rejected row."""
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b", ""]})
    job = toy_job.make_job(path, tmp_path / "out")
    toy_job.render(job)
    return job


def change(job: RenderJob, column: str, make: Callable[[pa.ChunkedArray], Any], folder: str = "manifest") -> None:
    """Replace a column of the job's only manifest part; a None removes it."""
    [part] = (Path(job.output) / folder).iterdir()
    table = pq.read_table(part)
    values, position = make(table[column]), table.column_names.index(column)
    metadata = table.schema.metadata
    table = table.remove_column(position) if values is None else table.set_column(position, column, values)
    pq.write_table(table.replace_schema_metadata(metadata), part)


def refusal_of(job: RenderJob) -> str:
    """The message of our own error, or "" if the report was written. Any other error fails the test."""
    try:
        write_report(Storage(job.output))
    except InputError as error:
        return str(error)
    return ""


def test_carried_dates_beyond_python_are_shown(tmp_path: Path) -> None:
    columns = {
        "until": pa.array([YEAR_10000, 0], pa.timestamp("us", "Europe/Berlin")),
        "day": pa.array([2**22, 0], pa.int32()).cast(pa.date32()),
        "took": pa.array([2**62, 1], pa.duration("s")),
        "at": pa.array([0, 1], pa.timestamp("us", "Mars/Phobos")),
        "nested": pa.array([[YEAR_10000], []], pa.list_(pa.timestamp("us"))),
        "price": pa.array(["1.50", None]).cast(pa.decimal128(5, 2)),
    }
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"], **columns})
    job = toy_job.make_job(path, tmp_path / "out")
    toy_job.render(job)

    assert write_report(Storage(job.output)).num_shown == 2

    page = (tmp_path / "out/report.html").read_text()
    assert "9999-12-31 23:59:59.000000Z" in page
    assert '"1.50"' in page


@pytest.mark.parametrize("column", MANIFEST_SCHEMA.names)
def test_a_missing_column_is_damage_if_every_image_must_have_it(job: RenderJob, column: str) -> None:
    change(job, column, lambda values: None)

    if MANIFEST_SCHEMA.field(column).nullable:
        assert write_report(Storage(job.output)).num_shown == 2
    else:
        with pytest.raises(DamagedFileError, match=rf"columns `{column}`.* --repair"):
            write_report(Storage(job.output))


@pytest.mark.parametrize("column", MANIFEST_SCHEMA.names)
def test_odd_values_in_any_column_end_in_a_page_or_in_one_of_our_errors(job: RenderJob, column: str) -> None:
    for make in (
        lambda values: pa.nulls(len(values), values.type),
        lambda values: pa.nulls(len(values)),
        lambda values: pa.array(["x\ny"] * len(values)),
        lambda values: pa.array([[{"a": 1}]] * len(values)),
        lambda values: pa.array([float("nan")] * len(values)),
        lambda values: pa.array([b"\xff"] * len(values)),
        lambda values: pa.array([2**70] * len(values), pa.decimal128(38)),
    ):
        change(job, column, make)
        assert len(refusal_of(job)) < 1000


@pytest.mark.parametrize(
    ("column", "make"),
    [
        ("created_at", lambda values: pa.array([2**62] * 2, pa.timestamp("us", "UTC"))),
        ("created_at", lambda values: pa.array([-(2**62)] * 2, pa.timestamp("us", "UTC"))),
        ("created_at", lambda values: pa.array(["yesterday"] * 2)),
        ("contrast", lambda values: pa.array([0.1, float("nan")], pa.float32())),
        ("cfg_weight", lambda values: pa.array([5.0, float("inf")])),
        ("perceptual_hash", lambda values: pa.array(["0f" * 8, "0F"])),
        ("image", lambda values: pa.array(["../../../etc/passwd"] * 2)),
        ("image", lambda values: pa.array(["/etc/passwd"] * 2)),
        ("image", lambda values: pa.array(["images/../../other/images/a.png"] * 2)),
        ("image", lambda values: pa.array(["s3://bucket/a.png"] * 2)),
        ("image", lambda values: pa.array(["images/a/b.html"] * 2)),
        ("prompt_id", lambda values: pa.array(["../a", "b"])),
    ],
)
def test_values_that_no_manifest_holds_are_damage(
    job: RenderJob, column: str, make: Callable[[pa.ChunkedArray], Any]
) -> None:
    change(job, column, make)

    with pytest.raises(DamagedFileError, match=r"is damaged .*`janus-batch verify .*/out --repair`"):
        write_report(Storage(job.output))


@pytest.mark.parametrize("column", ["row", "reason", "num_images"])
def test_a_damaged_file_of_rejected_rows_is_named(job: RenderJob, column: str) -> None:
    change(job, column, lambda values: None, folder="rejected")

    with pytest.raises(DamagedFileError, match=r"out/rejected/.*\.parquet cannot be read: the file is damaged"):
        write_report(Storage(job.output))


@pytest.mark.parametrize(
    "fields", [{"created_at": 20240101}, {"created_at": None}, {"janus_batch": [1]}, {"images": {"layout": "files"}}]
)
def test_odd_values_in_job_json_end_in_a_page_or_in_an_error_that_names_it(
    job: RenderJob, fields: dict[str, object]
) -> None:
    path = Path(job.output) / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    refusal = refusal_of(job)
    assert not refusal or "job.json" in refusal


@pytest.mark.parametrize("folder", ["manifest", "rejected", "images"])
def test_tables_and_images_with_changed_bytes_end_in_a_page_or_in_one_of_our_errors(
    job: RenderJob, folder: str
) -> None:
    path = next(path for path in sorted((Path(job.output) / folder).rglob("*")) if path.is_file())
    good, chance = path.read_bytes(), random.Random(0)

    for _ in range(30):
        data = bytearray(good)
        for _ in range(chance.choice([1, 2, 8])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        assert len(refusal_of(job)) < 2000
