"""Manifest parts and files of rejected rows that were edited by hand: read, or refused with one of our own errors."""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import InputError, JobFailure
from tests.support.toy_job import make_job, plan_job, render, write_prompts
from workflows.export.inventory import take_inventory
from workflows.export.layouts.table import EXPORT_LAYOUTS
from workflows.job import RenderJob
from workflows.output.manifest import REJECTED_KEY, committed_parts, parts_of_shards
from workflows.output.repairs import replace_part
from workflows.output.tally import tally_output
from workflows.report.write import gather_facts
from workflows.retry_rejected import plan_retries, read_rejected
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage
from workflows.verify.check import Findings, verify_output
from workflows.verify.replay import find_image

MAX_SECONDS = 20  # of one reader of one file; each takes milliseconds
NUM_MUTANTS = 40  # of each file, for each kind of mutation


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """A rendered toy job: one shard with two images and a rejected row, and carried columns."""
    columns = {"prompt": ["a", "b", ""], "id": ["x", "y", "z"], "kind": ["k", None, "l"], "score": [1, 2, 3]}
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out")
    render(job)
    return job


@pytest.fixture
def chance() -> random.Random:
    return random.Random(0)


def readers_of(job: RenderJob) -> dict[str, Callable[[], object]]:
    """What status, verify, report, export, replay, retry-rejected and a resume read of parts and rejected rows."""
    storage = Storage(job.output)
    plan, parts = plan_job(job), committed_parts(storage)
    files = plan.files

    def export(layout: str) -> object:
        return take_inventory(storage, parts_of_shards(parts), EXPORT_LAYOUTS[layout], job.recipe)

    def retry() -> object:
        retries, _ = plan_retries(storage, files)
        return [read_rejected(job, shard) for shard in retries.remaining_shards()]

    return {
        "resume": lambda: plan_job(job),
        "status": lambda: tally_output(job.output, {}),
        "verify": lambda: verify_output(storage, plan, job.recipe),
        "report": lambda: gather_facts(storage),
        "webdataset": lambda: export("webdataset"),
        "imagefolder": lambda: export("imagefolder"),
        "retry-rejected": retry,
        "replay": lambda: find_image(storage, "x_0"),
    }


def refusals_of(job: RenderJob, readers: dict[str, Callable[[], object]]) -> dict[str, str]:
    """The message of each reader that raises one of our errors; any other error, and a slow reader, fails the test."""
    refusals: dict[str, str] = {}
    for name, read in readers.items():
        start = time.monotonic()
        try:
            found = read()
            if isinstance(found, Findings):
                refusals |= {f"{name} {n}": fault for n, fault in enumerate(found.faults)}
        except (InputError, JobFailure) as error:
            refusals[name] = str(error)
        assert time.monotonic() - start < MAX_SECONDS, f"{name} takes too long"
    assert [text for text in refusals.values() if len(text) > 1000 or not text.isprintable()] == []
    return refusals


def file_in(job: RenderJob, folder: str) -> Path:
    [path] = (Path(job.output) / folder).iterdir()
    return path


def change(job: RenderJob, folder: str, column: str, values: pa.Array | None) -> None:
    """Replace a column of the only file in a folder of the output; None removes it."""
    path = file_in(job, folder)
    table = pq.read_table(path)
    position = table.column_names.index(column)
    table = table.remove_column(position) if values is None else table.set_column(position, column, values)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("column", "values", "fault"),
    [
        (
            "image_id",
            pa.nulls(2, pa.string()),
            "column `image_id` must have a value in every row, 2 of 2 rows have none",
        ),
        (
            "seed",
            pa.array([1, None], pa.uint64()),
            "column `seed` must have a value in every row, 1 of 2 rows have none",
        ),
        ("seed", pa.array(["x", "y"]), "column `seed` must be uint64, got string: Failed to parse string"),
        ("width", pa.array([[1], [2]]), r"column `width` must be int32, got list<element: int64>: Unsupported cast"),
        ("width", pa.array([2**40, 1]), "column `width` must be int32, got int64: Integer value 1099511627776 not in"),
        ("codes", pa.array([[(1, 1)]] * 2, pa.map_(pa.int32(), pa.int32())), "column `codes` must be list<.*got map<"),
        ("prompt", pa.array([b"\xff", b"b"]), "column `prompt` must be string, got binary: Invalid UTF8"),
        ("image", pa.array(["images/a\0.png"] * 2), r"image of row 0 must be an image file below images/, got"),
        ("latents", pa.array([None, "../a.npy"]), "latents of row 1 must be a file of latents below images/, got"),
        ("prompt_id", None, "it has 0 columns `prompt_id`, expected one"),
    ],
)
def test_a_mistyped_or_null_column_of_a_part_is_named(
    job: RenderJob, column: str, values: pa.Array | None, fault: str
) -> None:
    change(job, "manifest", column, values)
    path = file_in(job, "manifest")

    with pytest.raises(DamagedFileError, match=rf"{path} cannot be read: the file is damaged \({fault}.*--repair`"):
        take_inventory(Storage(job.output), [[path.stem]], EXPORT_LAYOUTS["webdataset"], job.recipe)


@pytest.mark.parametrize(
    ("column", "values", "fault"),
    [
        ("reason", pa.nulls(1, pa.string()), "column `reason` must have a value in every row, 1 of 1 rows have none"),
        ("num_images", pa.nulls(1), "column `num_images` must have a value in every row, 1 of 1 rows have none"),
        ("num_images", pa.array(["one"]), "column `num_images` must be int32, got string: Failed to parse string"),
        ("num_images", pa.array([2**40]), "column `num_images` must be int32, got int64: Integer value"),
        ("reason", pa.array([[1]]), "column `reason` must be string, got list<element: int64>: Unsupported cast"),
        ("reason", None, "it has 0 columns `reason`, expected one"),
    ],
)
def test_a_mistyped_or_null_column_of_rejected_rows_is_named(
    job: RenderJob, column: str, values: pa.Array | None, fault: str
) -> None:
    change(job, "rejected", column, values)

    message = rf"{file_in(job, 'rejected')} cannot be read: the file is damaged \({fault}.*--repair`"
    with pytest.raises(DamagedFileError, match=message):
        tally_output(job.output, {})
    with pytest.raises(DamagedFileError, match=message):
        gather_facts(Storage(job.output))


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"rejected/\0.parquet", b"../other/rejected/a.parquet", b"rejected/a/b.parquet"]
)
def test_a_part_may_only_name_rejected_rows_of_its_output(job: RenderJob, name: bytes) -> None:
    path = file_in(job, "manifest")
    pq.write_table(pq.read_table(path).replace_schema_metadata({REJECTED_KEY: name}), path)

    with pytest.raises(
        DamagedFileError, match=r"its metadata `janus_batch.rejected` must name a file in rejected/, got"
    ):
        tally_output(job.output, {})
    [fault] = verify_output(Storage(job.output), plan_job(job), job.recipe).faults
    assert "`janus_batch.rejected` must name a file" in fault


def test_a_repair_removes_no_file_outside_the_output(job: RenderJob) -> None:
    outside = Path(job.prompts).parent / "pack.tar"
    outside.write_bytes(b"mine")
    change(job, "manifest", "image", pa.array(["../pack.tar#a.png"] * 2))

    with pytest.raises(DamagedFileError, match="image of row 0 must be an image file below images/"):
        replace_part(Storage(job.output), file_in(job, "manifest").stem, {"x_0", "y_0"})
    assert outside.read_bytes() == b"mine"


def test_metadata_that_is_not_utf8_is_named(job: RenderJob) -> None:
    path = file_in(job, "manifest")
    path.write_bytes(path.read_bytes().replace(b"weights_sha256", b"\xffeights_sha256"))

    with pytest.raises(DamagedFileError, match=r"its metadata has text that is not UTF-8: b'.xffeights_sha256'\)"):
        gather_facts(Storage(job.output))


def test_a_doubled_carried_column_is_named(job: RenderJob) -> None:
    path = file_in(job, "manifest")
    table = pq.read_table(path)
    pq.write_table(table.append_column("score", table["score"]), path)

    with pytest.raises(DamagedFileError, match="it has 2 columns `score`, expected one"):
        gather_facts(Storage(job.output))
    assert plan_job(job).num_shards_remaining == 0  # a resume leaves the part to verify


@pytest.mark.parametrize("codec", [3, 23])  # LZO, and one that no version of Parquet has
def test_a_part_with_an_unsupported_codec_is_not_called_damaged(job: RenderJob, codec: int) -> None:
    path = file_in(job, "rejected")
    pq.write_table(pq.read_table(path), path, compression="zstd")
    # ColumnMetaData: path_in_schema ["reason"], then field 4, codec: 6 (zstd), as zigzag numbers
    column = b"\x19\x18\x06reason\x15"
    path.write_bytes(path.read_bytes().replace(column + bytes([2 * 6]), column + bytes([2 * codec])))

    with pytest.raises(
        DamagedFileError, match=rf"{path} cannot be read: pyarrow [\d.]+ does not support it \(.*ompression"
    ):
        tally_output(job.output, {})


@pytest.mark.parametrize("folder", ["manifest", "rejected"])
def test_changed_bytes_are_read_or_refused_in_one_line(job: RenderJob, folder: str, chance: random.Random) -> None:
    path, readers = file_in(job, folder), readers_of(job)
    good, num_refused = path.read_bytes(), 0
    for _ in range(NUM_MUTANTS):
        path.write_bytes(with_changed_bytes(good, chance))
        num_refused += bool(refusals_of(job, readers))

    assert num_refused > NUM_MUTANTS / 2


@pytest.mark.parametrize("folder", ["manifest", "rejected"])
def test_changed_tables_are_read_or_refused_in_one_line(job: RenderJob, folder: str, chance: random.Random) -> None:
    path, readers = file_in(job, folder), readers_of(job)
    good, num_refused = pq.read_table(path), 0
    for _ in range(NUM_MUTANTS):
        with contextlib.suppress(pa.ArrowNotImplementedError):  # Parquet has no such column
            path.write_bytes(with_changed_table(good, chance))
        num_refused += bool(refusals_of(job, readers))

    assert num_refused > NUM_MUTANTS / 2


def with_changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """`data` after a few random changes of bytes, and perhaps a truncation. Footers, at the end, are hit more often."""
    changed = bytearray(data)
    footer = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    for _ in range(chance.choice([0, 1, 2, 8])):
        changed[chance.randrange(chance.choice([0, footer]), len(data))] = chance.choice(
            [0, 0xFF, chance.randrange(256)]
        )
    start = chance.randrange(len(data))
    length = chance.choice([0, 0, 0, 1, 8, 200])
    return bytes(changed[:start] + chance.choice([b"", b"\xff" * length]) + changed[start + length :])


ODD_ARRAYS: list[Callable[[int], Any]] = [
    lambda n: pa.nulls(n),
    lambda n: pa.array([None] * n, pa.string()),
    lambda n: pa.array(["x\ny" * 1000] * n),
    lambda n: pa.array(["../../etc/passwd"] * n),
    lambda n: pa.array(["images/a\0b.png"] * n),
    lambda n: pa.array(["images/not-there.png"] * n),
    lambda n: pa.array([b"\xff\xfe"] * n),
    lambda n: pa.Array.from_buffers(pa.string(), n, pa.array([b"\xff"] * n).buffers()),
    lambda n: pa.array([float("nan")] * n),
    lambda n: pa.array([-(2**63)] * n),
    lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
    lambda n: pa.array([2**70] * n, pa.decimal128(38)),
    lambda n: pa.array([[{"a": 1}]] * n),
    lambda n: pa.array([[("k", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    lambda n: pa.array(["x"] * n).dictionary_encode(),
    lambda n: pa.array([True] * n),
    lambda n: pa.array([2**62] * n, pa.timestamp("us", "Mars/Phobos")),
    lambda n: pa.array([2**40] * n, pa.timestamp("s")),
    lambda n: pa.array([2**62] * n, pa.duration("s")),
    lambda n: pa.array([2**30] * n, pa.date32()),
    lambda n: pa.array([b"x" * 16] * n, pa.uuid()),
]
CODECS = ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]


def with_changed_table(table: pa.Table, chance: random.Random) -> bytes:
    """The bytes of a Parquet file of `table` after one or two random changes to its columns, rows, metadata or form."""
    for _ in range(chance.choice([1, 1, 2])):
        table = chance.choice([_without, _doubled, _renamed, _retyped, _retyped, _retyped, _other_rows, _marked])(
            table, chance
        )
    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        compression=chance.choice(CODECS),
        row_group_size=chance.choice([1, 2, 1000]),
        version=chance.choice(["1.0", "2.6"]),
        store_schema=chance.random() < 0.8,
    )
    return file.getvalue()


def _without(table: pa.Table, chance: random.Random) -> pa.Table:
    return table.remove_column(chance.randrange(table.num_columns)) if table.num_columns > 1 else table


def _doubled(table: pa.Table, chance: random.Random) -> pa.Table:
    position = chance.randrange(table.num_columns)
    return table.append_column(table.schema.field(position), table.column(position))


def _renamed(table: pa.Table, chance: random.Random) -> pa.Table:
    names = list(table.column_names)
    names[chance.randrange(len(names))] = chance.choice(["", "x\ny", "X" * 5000, "🦊", names[0], names[-1]])
    return table.rename_columns(names)


def _retyped(table: pa.Table, chance: random.Random) -> pa.Table:
    position = chance.randrange(table.num_columns)
    values = chance.choice(ODD_ARRAYS)(table.num_rows)
    return table.set_column(position, table.schema.field(position).name, values)


def _other_rows(table: pa.Table, chance: random.Random) -> pa.Table:
    return chance.choice([table.slice(0, 0), pa.concat_tables([table] * 3), table.slice(1), table.take([0] * 5)])


def _marked(table: pa.Table, chance: random.Random) -> pa.Table:
    names = [
        b"",
        b"\xff\xfe",
        b"rejected/\x00",
        b"../../etc/passwd",
        b"rejected/gone.parquet",
        b"x\ny" * 3000,
        b"images",
    ]
    return table.replace_schema_metadata(chance.choice([{}, None, {REJECTED_KEY: chance.choice(names)}]))
