"""Footers: what is no Parquet file is named as what it is, and nothing that a footer says takes the process along."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import random
import socket
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import encryption

from actors.errors import InputError
from tests.support.toy_job import write_prompts
from workflows.job import PromptReading
from workflows.prompt_files.thrift import read_struct
from workflows.prompts import PromptsError, find_prompt_files, read_rows
from workflows.storage.damage import DamagedFileError


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


def arrow_bytes() -> bytes:
    sink = io.BytesIO()
    feather.write_feather(pa.table({"prompt": ["a"]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"prompt\na red cat\n", "it is CSV or other text"),
        ("prompt\na red cat\n".encode("utf-16"), "it is CSV or other text"),
        (b'{"prompt": "a red cat"}\n', "it is JSON or JSON lines"),
        (b'[{"prompt": "a red cat"}]', "it is JSON or JSON lines"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer; `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is an HTML or XML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is an HTML or XML page"),
        (arrow_bytes(), "it is Arrow IPC or Feather"),
        (zip_bytes(), "it is a zip archive or an Excel workbook"),
        (b"\x1f\x8b\x08" + b"\0" * 100, "it is a compressed file"),
        (b"\x80\x04\x95" + b"\0" * 20, "it is data of another format"),
        (b"ORC\x01\x02" + b"\0" * 20, "it is ORC"),
        (b"Obj\x01" + b"\0" * 20, "it is Avro"),
        (b"SQLite format 3\0" + b"\0" * 100, "it is a database"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "it is an image or a document"),
    ],
)
def test_a_file_that_is_no_parquet_is_named_as_what_it_is(tmp_path: Path, data: bytes, named: str) -> None:
    (tmp_path / "a.parquet").write_bytes(data)

    with pytest.raises(PromptsError, match=named) as refusal:
        find_prompt_files(str(tmp_path), {})
    assert "damaged" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


class PlainKms(encryption.KmsClient):
    """Wraps keys by writing them as text."""

    def __init__(self, _: encryption.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize("has_plain_footer", [True, False])
def test_an_encrypted_file_is_named_as_encrypted(tmp_path: Path, has_plain_footer: bool) -> None:
    table = pa.table({"prompt": ["a"], "n": [1]})
    config = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"k": ["prompt"]}, plaintext_footer=has_plain_footer
    )
    factory = encryption.CryptoFactory(PlainKms)
    how = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=how) as writer:
        writer.write_table(table)

    with pytest.raises(PromptsError, match=r"a.parquet (is|are) .*encrypted.*decrypt"):
        find_prompt_files(str(tmp_path), {})


def test_an_unknown_codec_is_refused_by_name_and_column(tmp_path: Path) -> None:
    path = Path(write_prompts(tmp_path / "a.parquet", {"prompt": ["a"]}))
    data = path.read_bytes()
    # ColumnMetaData: path_in_schema ["prompt"], then field 4, codec: 1 (snappy, zigzag 2) becomes 3 (LZO, zigzag 6)
    path.write_bytes(data.replace(b"\x19\x18\x06prompt\x15\x02", b"\x19\x18\x06prompt\x15\x06"))

    with pytest.raises(PromptsError, match=r"column `prompt` of .*a.parquet is compressed with lzo, .* zstd or snappy"):
        find_prompt_files(str(tmp_path), {})


def test_a_footer_that_counts_other_rows_than_its_row_groups_is_refused_before_a_row_is_read(tmp_path: Path) -> None:
    path = Path(write_prompts(tmp_path / "a.parquet", {"prompt": ["a"] * 45}, row_group_size=20))
    data = path.read_bytes()
    # FileMetaData: field 3, num_rows: 45 (zigzag 0x5a) becomes 44
    assert data.count(b"\x16\x5a\x19") == 1
    path.write_bytes(data.replace(b"\x16\x5a\x19", b"\x16\x58\x19"))

    with pytest.raises(DamagedFileError, match=r"damaged \(its footer counts 44 rows, and 45 in its row groups\)"):
        find_prompt_files(str(tmp_path), {})


def test_text_of_many_megabytes_in_a_small_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"prompt": ["x" * (20 * 2**20), "a"]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000

    with pytest.raises(
        PromptsError, match=r"column `prompt` of .* has 20,\d+,\d+ bytes in the 2 rows of row group 0; a row"
    ):
        find_prompt_files(str(path), {})


def test_pipes_sockets_and_broken_links_are_named_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link/a.parquet").symlink_to(tmp_path / "gone.parquet")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/a.parquet")
    (tmp_path / "socket").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket/a.parquet"))

        for kind in ("pipe", "socket", "link"):
            for place in (tmp_path / kind, tmp_path / kind / "a.parquet", tmp_path / kind / "*.parquet"):
                with pytest.raises(InputError, match=r"a.parquet (is a pipe, a socket|is not there)|no prompt files"):
                    find_prompt_files(str(place), {})


def test_a_footer_larger_than_one_read_is_read(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": ["a"] * 500, "x" * 1000: [1] * 500}, row_group_size=1)

    assert find_prompt_files(path, {})[0].num_rows == 500


# ---- any bytes -------------------------------------------------------------------------------------------------------


def refusal_of(path: Path) -> str:
    """What a run says about a prompt file that it plans and reads; empty if it can."""
    try:
        (file,) = find_prompt_files(str(path), {})
        if 0 < file.num_rows <= 1000:
            read_rows(file, 0, file.num_rows, {})
    except (PromptsError, DamagedFileError) as error:
        return str(error)
    return ""


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    """Seeded; half of the mutations hit the footer, where pyarrow can end the process."""
    path = tmp_path / "a.parquet"
    columns = {"prompt": ["a", "b"] * 30, "n": range(60), "l": [["x"], None] * 30, "s": [{"a": 1}] * 60}
    data = Path(write_prompts(path, {**columns, "n": list(range(60))}, row_group_size=25)).read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")

    for seed in range(400):
        chance = random.Random(seed)
        mutated = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            mutated[chance.randrange(footer if seed % 2 else 0, len(data))] = chance.randrange(256)
        path.write_bytes(mutated if seed % 5 else mutated[: chance.randrange(len(data))])
        refusal = refusal_of(path)
        assert "\n" not in refusal
        assert len(refusal) < 1500


@given(st.binary(max_size=200))
def test_the_thrift_reader_ends_with_a_struct_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(read_struct(data), dict)


def test_nested_and_oversized_thrift_is_refused() -> None:
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        read_struct(b"\x1c" * 10_000)
    with pytest.raises(ValueError, match="is longer than its data"):
        read_struct(b"\x19\xf5\xff\xff\xff\x7f")


SIMPLE = st.sampled_from(
    [
        *(pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.date32(), pa.time64("ns")),
        *(pa.string(), pa.string_view(), pa.binary(3), pa.binary_view(), pa.dictionary(pa.int8(), pa.string())),
        *(pa.timestamp("us", "+05:30"), pa.duration("ms"), pa.decimal256(50, 3)),
    ]
)
NESTED = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.builds(pa.list_, inner),
        st.builds(pa.large_list_view, inner),
        st.builds(pa.list_view, inner),
        st.builds(lambda kind: pa.list_(kind, 2), inner),
        st.builds(lambda kind: pa.map_(pa.string(), kind), inner),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda kinds: pa.struct([(f"f{n}", k) for n, k in enumerate(kinds)])
        ),
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NESTED)
def test_null_values_of_any_type_are_carried(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    try:
        write_prompts(path, {"prompt": ["a", "b"], "x": pa.nulls(2, kind)})
    except pa.ArrowNotImplementedError:
        return  # a type that Parquet cannot hold
    (file,) = find_prompt_files(str(path), {})

    assert read_rows(file, 1, 2, {})["x"].to_pylist() == [None]


def test_a_column_that_the_job_reads_under_another_name_has_the_same_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"Caption": ["a" * (17 * 2**20)], "prompt": ["not read"]}), path, use_dictionary=False)
    reading = PromptReading(columns={"prompt": "Caption"}, where="length(Caption) > 5")
    with pytest.raises(PromptsError, match=r"column `Caption` of .* has 17,825,\d+ bytes in the 1 rows"):
        find_prompt_files(str(path), {}, reading=reading)
