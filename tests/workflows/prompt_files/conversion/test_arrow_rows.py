"""Arrow files: datasets saved to disk, and Feather files."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from workflows.prompts import PromptsError, find_prompt_files, read_rows
from workflows.storage.damage import DamagedFileError

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def splits() -> datasets.DatasetDict:
    train = datasets.Dataset.from_dict(
        {"prompt": [f"a picture of {n}" for n in range(10)], "label": [n % 2 for n in range(10)], "tags": [["x"]] * 10},
        features=datasets.Features(
            {
                "prompt": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["no", "yes"]),
                "tags": datasets.Sequence(datasets.Value("string")),
            }
        ),
    )
    return datasets.DatasetDict({"train": train, "test": train.select(range(2))})


def test_a_dataset_saved_to_disk_has_its_rows_in_order(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits["train"].save_to_disk(tmp_path / "saved", num_shards=3)
    (tmp_path / "saved/cache-0123.arrow").write_bytes(b"of a map that ran on the loaded dataset")

    files = find_prompt_files(str(tmp_path / "saved"), {})

    assert [file.num_rows for file in files] == [4, 3, 3]
    tables = [read_rows(file, 0, file.num_rows, {}) for file in files]
    assert pa.concat_tables(tables).to_pylist() == splits["train"].to_list()


def test_a_folder_with_several_splits_must_be_told_which(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits.save_to_disk(tmp_path / "saved")

    with pytest.raises(PromptsError, match=r"saved holds a dataset with the splits test, train; name one of them: "):
        find_prompt_files(str(tmp_path / "saved"), {})
    assert find_prompt_files(str(tmp_path / "saved/test"), {})[0].num_rows == 2

    os.unlink(tmp_path / "saved/test/data-00000-of-00001.arrow")
    with pytest.raises(PromptsError, match=r"data-00000-of-00001.arrow is missing, which .*state.json names"):
        find_prompt_files(str(tmp_path / "saved/test"), {})


def test_a_feather_file_and_its_views_and_dictionaries(tmp_path: Path) -> None:
    table = pa.table({"prompt": pa.array(["a", "b"], pa.string_view()), "x": pa.array(["u", "v"]).dictionary_encode()})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    feather.write_feather(pa.table({"prompt": ["c"], "x": ["w"]}), str(tmp_path / "b.feather"), compression="zstd")

    files = find_prompt_files(str(tmp_path), {})

    assert [read_rows(file, 0, file.num_rows, {}).to_pylist() for file in files] == [
        [{"prompt": "a", "x": "u"}, {"prompt": "b", "x": "v"}],
        [{"prompt": "c", "x": "w"}],
    ]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"ARROW1 and nothing else")
    with pytest.raises(DamagedFileError, match=r"prompts: .*a.arrow cannot be read: the file is damaged"):
        find_prompt_files(str(tmp_path), {})


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PAR1 and so on", "a Parquet file; rename it to .parquet"),
        (b"FEA1 and so on", "Feather version 1; write it with version 2"),
        (b"ORC and so on", "ORC"),
        (b"\x7fELF\x02\x01 and so on", "data of another format"),
        (b"", "empty"),
    ],
)
def test_a_file_of_another_format_is_not_called_damaged(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(PromptsError, match=rf"prompts: .*a.arrow is no Arrow file, it is {kind}"):
        find_prompt_files(str(tmp_path), {})


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([b"", b""], pa.binary(0)), "FIXED_LEN_BYTE_ARRAY length: 0"),
        (pa.array([Decimal("1E+2"), None], pa.decimal128(5, -2)), "Scale must be a non-negative integer"),
        (pa.array([2**62, None], pa.timestamp("s")), "overflow when casting timestamp value"),
        (pa.array([[2**62], None], pa.list_(pa.timestamp("s"))), "overflow when casting timestamp value"),
        (pa.array([{}, None], pa.struct([])), "struct<> has no fields"),
        (pa.array([None, None], pa.month_day_nano_interval()), "Unhandled type .* month_day_nano_interval"),
    ],
)
def test_a_column_that_parquet_cannot_hold_is_refused_by_its_name(
    tmp_path: Path, column: pa.Array, reason: str
) -> None:
    feather.write_feather(pa.table({"prompt": ["a", "b"], "odd": column}), str(tmp_path / "a.arrow"))

    with pytest.raises(PromptsError, match=rf"prompts: column `odd` of .*a.arrow cannot be carried: .*{reason}"):
        find_prompt_files(str(tmp_path), {})


def test_tensors_with_a_permutation_are_carried(tmp_path: Path) -> None:
    kind = pa.fixed_shape_tensor(pa.int8(), [2, 2], permutation=[1, 0])
    tensors = pa.ExtensionArray.from_storage(kind, pa.array([[1, 2, 3, 4]], kind.storage_type))
    feather.write_feather(pa.table({"prompt": ["a"], "x": tensors}), str(tmp_path / "a.arrow"))

    (file,) = find_prompt_files(str(tmp_path), {})

    assert read_rows(file, 0, 1, {})["x"].combine_chunks().equals(tensors)
