"""CSV as people have it: delimiters, quotes, headers, encodings, and columns with the types of their values."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from workflows.job import PromptReading
from workflows.prompt_files.conversion.lines import MAX_LINE_BYTES
from workflows.prompts import PromptFile, PromptsError, find_prompt_files, read_rows
from workflows.storage.damage import DamagedFileError

COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


def found(path: Path, data: bytes, **reading: Any) -> PromptFile:
    path.write_bytes(data)
    (file,) = find_prompt_files(str(path), {}, reading=PromptReading(**reading))
    return file


def rows(path: Path, text: str | bytes, **reading: Any) -> list[dict[str, Any]]:
    file = found(path, text if isinstance(text, bytes) else text.encode(), **reading)
    return read_rows(file, 0, file.num_rows, {}).to_pylist() if file.num_rows else []


def test_every_delimiter_is_found_in_the_first_line(tmp_path: Path) -> None:
    for number, delimiter in enumerate(",;\t|"):
        text = f"prompt{delimiter}seed\na cat{delimiter}7\n"
        assert rows(tmp_path / f"{number}.csv", text) == [{"prompt": "a cat", "seed": 7}]
    assert rows(tmp_path / "t.tsv", "prompt\tnote\na cat, a dog\tb;c\n") == [{"prompt": "a cat, a dog", "note": "b;c"}]
    assert rows(tmp_path / "given.csv", "prompt:seed\na, b;7:7\n", csv_delimiter=":") == [
        {"prompt": "a, b;7", "seed": 7}
    ]
    assert rows(tmp_path / "excel.csv", "sep=:\nprompt:seed\na,b:7\n") == [{"prompt": "a,b", "seed": 7}]


def test_quotes_line_breaks_byte_order_marks_and_empty_lines(tmp_path: Path) -> None:
    text = '\ufeffprompt,note\r\n"a ""big"" cat,\r\non two lines",x\r\n\r\n , \r\na dog,\r\n,\r\n'
    file = found(tmp_path / "a.csv", text.encode())
    assert file.num_skipped == 3
    assert read_rows(file, 0, 2, {}).to_pylist() == [
        {"prompt": 'a "big" cat,\r\non two lines', "note": "x"},
        {"prompt": "a dog", "note": None},
    ]


def test_a_compressed_file_has_the_rows_of_the_plain_one_and_the_same_ids(tmp_path: Path) -> None:
    for ending, compress in COMPRESS.items():
        file = found(tmp_path / f"a.csv.{ending}", compress(b"prompt\na cat\n") + compress(b"a dog\n"))
        assert read_rows(file, 0, 2, {})["prompt"].to_pylist() == ["a cat", "a dog"]


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_compressed_file_that_is_damaged_or_not_compressed_is_refused(tmp_path: Path, ending: str) -> None:
    data, path = COMPRESS[ending](b"prompt\na cat\n" * 1000), tmp_path / f"b.csv.{ending}"
    for damaged in (data[:-9], data[:6] + b"\xff" * 12 + data[18:], data[:-8] + bytes(8)):
        with pytest.raises(DamagedFileError, match=rf"b.csv.{ending} cannot be read: the compressed file is damaged"):
            found(path, damaged)
    with pytest.raises(PromptsError, match=rf"the name of .*b.csv.{ending} says \w+, and the file is not compressed"):
        found(path, b"prompt\na cat\n")
    with pytest.raises(PromptsError, match=rf"b.csv.{ending} is empty"):
        found(path, b"")


def test_a_file_without_a_header_has_numbered_columns_or_prompts_alone(tmp_path: Path) -> None:
    assert rows(tmp_path / "one.csv", "a cat\na dog\n", csv_header=False) == [{"prompt": "a cat"}, {"prompt": "a dog"}]
    reading = {"csv_header": False, "columns": {"prompt": "column_2"}}
    assert rows(tmp_path / "two.csv", "7,a cat\n8,a dog\n", **reading) == [
        {"prompt": "a cat", "column_1": 7},
        {"prompt": "a dog", "column_1": 8},
    ]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", ""], pa.int64()),
        (["0", "18446744073709551615"], pa.uint64()),
        (["1", "2.5", "1e-3"], pa.float64()),
        (["true", "False", ""], pa.bool_()),
        (["007", "1"], pa.string()),
        (["1", "x"], pa.string()),
        (["-1", "18446744073709551615"], pa.string()),
        (["nan", "1"], pa.string()),
        (["1e999"], pa.string()),
        (["1.5", "-1e-999"], pa.string()),
        (["0e5", "-0.00"], pa.float64()),
        (["+1", "1_0", " 1"], pa.string()),
        (["", ""], pa.string()),
        (["2026-01-01", "2026-01-02"], pa.string()),
    ],
)
def test_a_column_has_the_narrowest_type_that_gives_every_value_back(
    tmp_path: Path, values: list[str], kind: pa.DataType
) -> None:
    """A column without any value is text, as in every prompt file."""
    file = found(tmp_path / "a.csv", ("prompt,x\n" + "".join(f"p,{value}\n" for value in values)).encode())
    assert file.carried.field("x").type == kind


def test_types_are_those_of_the_whole_file(tmp_path: Path) -> None:
    text = "prompt,x\n" + "p,1\n" * 50_000 + "p,one\n"
    file = found(tmp_path / "a.csv", text.encode())
    assert read_rows(file, 49_999, 50_001, {})["x"].to_pylist() == ["1", "one"]


def test_whole_numbers_in_one_file_and_text_in_another_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,zip\na cat,12345\n")
    (tmp_path / "b.csv").write_text("prompt,zip\na dog,01234\n")
    files = find_prompt_files(str(tmp_path), {}, reading=PromptReading(where="zip > '0'"))
    assert [read_rows(file, 0, 1, {})["zip"][0].as_py() for file in files] == ["12345", "01234"]
    (tmp_path / "a.csv").write_text("prompt,zip\na cat,1.50\n")
    with pytest.raises(PromptsError, match=r"column `zip` holds double in .*a.csv and string in .*b.csv"):
        find_prompt_files(str(tmp_path), {})


def test_prompts_and_ids_are_text_whatever_they_hold(tmp_path: Path) -> None:
    text = "id,Caption,negative_prompt\n1,1984,42\n"
    assert rows(tmp_path / "a.csv", text, columns={"prompt": "Caption"}) == [
        {"id": "1", "prompt": "1984", "negative_prompt": "42"}
    ]
    looked_at = {"columns": {"image": "File"}, "reads_images": True}
    assert rows(tmp_path / "b.csv", "File,question\n1,2\n", **looked_at) == [{"image": "1", "question": "2"}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"prompt,x\na,1\na, b,2\n",
            r"line 3 of .*a.csv must have 2 fields, as the first line, and has 3; .*must be in \"quotes\"",
        ),
        (b"prompt,x\n\na\n", r"line 3 of .*a.csv must have 2 fields, as the first line, and has 1;"),
        (b'prompt,x\n"a\nb",1\nc\n', r"line 4 of .*a.csv must have 2 fields"),
        (b'prompt,x\na,1\n"b,2\nc,3\n', r"a quote in the record on line 3 of .*a.csv is not closed"),
        (b'prompt,x\n"a"b,1\n', r"line 2 of .*a.csv is no CSV: ',' expected after '\"'"),
        (b"prompt,x\na,1\nb\xe9,2\n", r"line 3 of .*a.csv is not UTF-8 text \(byte 0xE9\); save the file as UTF-8"),
        ("prompt\na\n".encode("utf-16"), r"a.csv is UTF-16 text; save the file as UTF-8"),
        (
            gzip.compress(b"prompt\na\n", mtime=0),
            r"a.csv is a compressed file, and its name says text; name it after its",
        ),
        (b"PAR1 and more", r"a.csv is a Parquet file, and its name says text"),
        (b"", r"a.csv is empty; the first line of a CSV file names its columns"),
        (b"\n\n", r"a.csv is empty"),
        (b"prompt,x,x\na,1,2\n", r"a.csv has 2 columns `x`; names must be unique"),
        (
            b"id,Caption\n1,a\n",
            r"no column `prompt`; its columns are id, Caption; did you mean `--set prompt_column=Caption`",
        ),
        (b"id\tseed\n1\t7\n", r"its columns are id, seed$"),
        (b"a cat\na dog\n", r"its columns are a cat; if that is the first prompt, set csv.header=false"),
        (b"My prompt,x\na,b\n", r"did you mean `--set 'prompt_column=My prompt'`"),
        (b"prompt,seed\na,7\n\nb,n/a\n", r"line 4 of .*a.csv: column `seed` must hold whole numbers, got n/a"),
        (b"prompt,cfg_weight\na,1e999\n", r"line 2 of .*a.csv: column `cfg_weight` must hold numbers, got 1e999"),
        (b"prompt\ra cat\ra dog\r", r"the lines of .*a.csv end with carriage returns"),
        (b"prompt\na\rb\n", r"line 2 of .*a.csv is no CSV: a carriage return \(\\r\) in a field must be in quotes"),
        ("prompt\na\n".encode("utf-16-be"), r"a.csv is UTF-16 text"),
        (b"prompt\n" + b"a" * (MAX_LINE_BYTES + 1), r"line 2 of .*a.csv is too long; a line may have 16,777,216 bytes"),
    ],
)
def test_what_is_no_table_is_refused_by_line_number(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(PromptsError, match=message) as refused:
        found(tmp_path / "a.csv", data)
    assert "\n" not in str(refused.value)


def test_a_prompt_of_900_megabytes_in_a_tiny_file_is_refused_in_little_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb", compresslevel=1) as file:
        file.write(b'prompt\n"')
        for _ in range(900):
            file.write(b"a" * 2**20)
        file.write(b'"\n')
    before = pa.total_allocated_bytes()
    with pytest.raises(PromptsError, match=r"line 2 of .*a.csv.gz is too long"):
        find_prompt_files(str(tmp_path / "a.csv.gz"), {})
    assert pa.total_allocated_bytes() - before < 2**20


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", "prompt,x\n") == []


def test_an_index_of_pandas_gets_a_name(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", ",prompt\n0,a\n1,b\n") == [
        {"prompt": "a", "column_1": 0},
        {"prompt": "b", "column_1": 1},
    ]
