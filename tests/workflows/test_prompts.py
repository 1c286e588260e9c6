"""Prompt files: selection, refusals before anything runs, and reading ranges of rows."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.servers.s3 import S3Server
from tests.support.toy_job import write_prompts
from workflows.prompts import PromptsError, find_prompt_files, read_rows
from workflows.storage.damage import DamagedFileError
from workflows.storage.errors import StorageError, StorageUnreachable
from workflows.storage.store import FIRST_CONTACT


def names(pattern: Path | str, **options) -> list[str]:
    return [file.name for file in find_prompt_files(str(pattern), options)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two prompt files, one of them in a subfolder, among markers and temporary files of other writers."""
    for name in ("b.parquet", "sub/a.parquet", "_tmp/c.parquet", ".hidden.parquet"):
        write_prompts(tmp_path / "prompts" / name, {"prompt": ["a red square"]})
    (tmp_path / "prompts/_SUCCESS").touch()
    (tmp_path / "prompts/notes.txt").write_text("not prompts")
    return tmp_path / "prompts"


def test_a_folder_selects_its_parquet_files_at_any_depth_without_markers_of_other_writers(folder: Path) -> None:
    assert names(folder) == ["b.parquet", "sub/a.parquet"]
    assert names(f"{folder}/") == ["b.parquet", "sub/a.parquet"]
    assert names(f"file://{folder}") == ["b.parquet", "sub/a.parquet"]


def test_a_glob_selects_hidden_files_only_if_it_names_them(folder: Path) -> None:
    write_prompts(folder / "c.other", {"prompt": ["a"]})

    assert names(folder / "*.parquet") == ["b.parquet"]
    assert names(folder / "**/*.parquet") == ["b.parquet", "sub/a.parquet"]
    assert names(folder / "*.other") == ["c.other"]
    assert names(folder / "_tmp/*") == ["c.parquet"]
    assert names(folder / "_t*/*.parquet") == ["_tmp/c.parquet"]
    assert names(folder / ".h*.parquet") == [".hidden.parquet"]


def test_a_file_with_any_name_can_be_selected(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.pq", {"prompt": ["a", "b"]})

    (file,) = find_prompt_files(str(tmp_path / "prompts.pq"), {})

    assert (file.name, file.num_rows) == ("prompts.pq", 2)
    assert file.num_bytes == (tmp_path / "prompts.pq").stat().st_size


@pytest.mark.parametrize("pattern", ["nothing.parquet", "nothing/", "*.csv", "empty"])
def test_no_match_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(
        PromptsError, match=r"no prompt files match .*\(a file, a glob, or a folder of files in one format"
    ):
        names(f"{tmp_path}/{pattern}")


def test_a_file_without_prompts_is_refused_with_the_columns_it_has(tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.parquet", {"caption": ["a"], "id": ["1"]})

    with pytest.raises(PromptsError, match=r"a.parquet has no column `prompt`; its columns are caption, id"):
        names(tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "refusal"),
    [
        ("prompt", [1, 2], "column `prompt` of .* must hold text, it holds int64"),
        ("prompt", [b"a", b"b"], "must hold text, it holds binary"),
        ("id", [1.5, 2.5], "column `id` of .* must hold text or whole numbers, it holds double"),
        ("seed", ["1", "2"], "column `seed` of .* must hold whole numbers, it holds string"),
        ("cfg_weight", ["5", "7"], "column `cfg_weight` of .* must hold numbers, it holds string"),
        ("cfg_weight", [[5.0], [7.0]], "must hold numbers, it holds list"),
        ("temperature", [True, False], "column `temperature` of .* must hold numbers, it holds bool"),
        ("negative_prompt", [0, 1], "column `negative_prompt` of .* must hold text"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path: Path, column: str, values: list, refusal: str) -> None:
    write_prompts(tmp_path / "a.parquet", {"prompt": ["a", "b"], column: values})

    with pytest.raises(PromptsError, match=refusal):
        names(tmp_path)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_arrow_type_of_text_is_allowed(tmp_path: Path, kind: pa.DataType) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": pa.array(["a", "b"]).cast(kind)})

    (file,) = find_prompt_files(path, {})

    assert read_rows(file, 1, 2, {})["prompt"].to_pylist() == ["b"]


def test_a_column_of_nulls_and_a_column_of_another_family_are_allowed(tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.parquet", {"prompt": ["a"], "seed": pa.nulls(1), "num_inference_steps": ["many"]})

    assert len(find_prompt_files(str(tmp_path), {}, ignored_columns=["num_inference_steps"])) == 1


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["prompt", "n", "n"])
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(PromptsError, match=r"a.parquet has 2 columns `n`; names must be unique"):
        names(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-30],
        lambda data: data[:40] + b"\0" * len(data),
        lambda data: data[:-8] + b"\xff" * 4 + b"PAR1",
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage) -> None:
    write_prompts(tmp_path / "good.parquet", {"prompt": ["a"]})
    data = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(damage(data))

    with pytest.raises(DamagedFileError, match=r"prompts: .*/bad.parquet cannot be read: the file is damaged \("):
        names(tmp_path)


def test_a_damaged_footer_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    data = Path(write_prompts(path, {"prompt": ["a"]})).read_bytes()
    footer_size = int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[: -8 - footer_size] + b"\xff" * footer_size + data[-8:])

    with pytest.raises(DamagedFileError, match=r"a.parquet cannot be read: the file is damaged \("):
        names(path)


def test_damaged_rows_are_refused_by_file_and_range(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    prompts_ = [f"a prompt that is not the {n}th" for n in range(500)]
    data = bytearray(Path(write_prompts(path, {"prompt": prompts_})).read_bytes())
    data[20:2000] = os.urandom(1980)
    path.write_bytes(data)

    (file,) = find_prompt_files(str(path), {})

    with pytest.raises(
        DamagedFileError, match=r"prompts: rows 0 to 500 of .*a.parquet cannot be read: the file is damaged"
    ):
        read_rows(file, 0, 500, {})


# ---- tables and partitions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("_delta_log/00000000000000000000.json", r"holds a Delta table.*write a snapshot"),
        ("table/_delta_log/00000000000000000000.json", "holds a Delta table"),
        ("metadata/v1.metadata.json", "holds an Iceberg table"),
        (".hoodie/hoodie.properties", "holds a Hudi table"),
    ],
)
def test_a_table_whose_folder_has_removed_rows_is_refused(folder: Path, marker: str, told: str) -> None:
    (folder / marker).parent.mkdir(parents=True)
    (folder / marker).write_text("{}")

    with pytest.raises(PromptsError, match=told):
        names(folder)
    if "table" not in marker:  # a glob is searched in its own folder only
        with pytest.raises(PromptsError, match=told):
            names(folder / "**/*.parquet")


def test_the_folders_of_hive_partitions_may_set_weights(tmp_path: Path) -> None:
    for weight in ("5", "7.5"):
        write_prompts(tmp_path / f"cfg_weight={weight}/version=1.10/a.parquet", {"prompt": ["a cat"]})
    rows = [read_rows(file, 0, 1, {}).to_pylist()[0] for file in find_prompt_files(str(tmp_path), {})]
    assert [(row["cfg_weight"], row["version"]) for row in rows] == [(5, "1.10"), (7.5, "1.10")]


def test_the_folders_of_hive_partitions_are_carried_columns(tmp_path: Path) -> None:
    for name in ("lang=en/year=2021", "lang=a%20b/year=7", "lang=__HIVE_DEFAULT_PARTITION__/year=2022"):
        write_prompts(tmp_path / "p" / name / "a.parquet", {"prompt": ["a", "b"]})

    files = find_prompt_files(str(tmp_path / "p"), {})

    assert files[0].carried == pa.schema([("lang", pa.string()), ("year", pa.int64())])
    rows = [row for file in files for row in read_rows(file, 1, 2, {}).to_pylist()]
    assert [(row["lang"], row["year"]) for row in rows] == [(None, 2022), ("a b", 7), ("en", 2021)]
    assert [file.hive_values for file in find_prompt_files(f"{tmp_path}/p/lang=*/*/*.parquet", {})] == [
        file.hive_values for file in files
    ]


def test_a_column_of_the_file_goes_before_the_name_of_its_folder(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p/lang=en/a.parquet", {"prompt": ["a"], "lang": ["de"]})

    (file,) = find_prompt_files(str(tmp_path / "p"), {})

    assert read_rows(file, 0, 1, {})["lang"].to_pylist() == ["de"]


def test_a_partition_sets_a_column_that_the_job_reads(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p/cfg_weight=3/a.parquet", {"prompt": ["a"]})
    write_prompts(tmp_path / "q/cfg_weight=high/a.parquet", {"prompt": ["a"]})

    (file,) = find_prompt_files(str(tmp_path / "p"), {})

    assert read_rows(file, 0, 1, {})["cfg_weight"].to_pylist() == [3]
    with pytest.raises(PromptsError, match=r"column `cfg_weight` of .* must hold numbers, it holds string"):
        find_prompt_files(str(tmp_path / "q"), {})


def test_a_glob_that_matches_folders_only_says_how_to_match_their_files(tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.parquet/part-0.parquet", {"prompt": ["a"]})

    assert names(tmp_path / "a.parquet") == ["part-0.parquet"]
    with pytest.raises(
        PromptsError, match=r"\*.parquet matches folders only; .*\*.parquet/\*.parquet matches the files"
    ):
        names(tmp_path / "*.parquet")


@pytest.mark.parametrize("name", ["[batch 1]", "what?", "a*b", "x[!a]y", "a::b", "50% off", "{a,b}", "a#b"])
def test_characters_of_globs_in_names_that_exist_mean_these_files(tmp_path: Path, name: str) -> None:
    path = write_prompts(tmp_path / name / f"{name}.parquet", {"prompt": ["a"]})

    (file,) = find_prompt_files(path, {})

    assert file == find_prompt_files(str(tmp_path / name), {})[0]
    assert read_rows(file, 0, 1, {})["prompt"].to_pylist() == ["a"]


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_a_range_has_its_rows_across_row_groups(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": [str(n) for n in range(23)]}, row_group_size=5)
    (file,) = find_prompt_files(path, {})

    for start in range(23):
        for stop in range(start + 1, 24):
            assert read_rows(file, start, stop, {})["prompt"].to_pylist() == [str(n) for n in range(start, stop)]


def test_one_huge_row_group_is_decoded_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": [str(n) for n in range(1000)]})
    (file,) = find_prompt_files(path, {})
    decoded = []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, rows, **how: decoded.append(how["row_groups"]) or real(self, rows, **how),
    )

    rows = [read_rows(file, start, start + 10, {})["prompt"].to_pylist() for start in range(0, 1000, 10)]

    assert [row for part in rows for row in part] == [str(n) for n in range(1000)]
    assert decoded == [[0]]


def test_the_rows_of_a_shard_are_serialized_without_their_row_group(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": [f"{n:0100d}" for n in range(10_000)]})
    (file,) = find_prompt_files(path, {})

    assert len(pickle.dumps(read_rows(file, 5, 15, {}))) < 3000  # ten rows of 100 bytes; the row group has 1 MB


def test_a_file_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": ["a red square"]})
    (planned,) = find_prompt_files(path, {})
    write_prompts(path, {"prompt": ["a blue square"]})

    with pytest.raises(PromptsError, match=r"a.parquet was changed after this job was planned"):
        read_rows(planned, 0, 1, {})


def test_the_version_changes_with_the_content_only(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": ["a red square"]})
    versions = {find_prompt_files(place, {})[0].version for place in (path, str(tmp_path), f"{tmp_path}/*.parquet")}
    os.utime(path, ns=(0, 0))
    versions.add(find_prompt_files(str(shutil.copy(path, tmp_path / "copy.parquet")), {})[0].version)
    versions.add(find_prompt_files(path, {})[0].version)

    assert len(versions) == 1
    write_prompts(path, {"prompt": ["a rad square"]})
    assert find_prompt_files(path, {})[0].version not in versions


def test_a_large_file_is_compared_by_pieces_of_its_content(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", {"prompt": ["a"], "blob": [os.urandom(6 * 2**20)]})
    version = find_prompt_files(path, {})[0].version
    data = bytearray(Path(path).read_bytes())
    Path(path).write_bytes(data)
    assert find_prompt_files(path, {})[0].version == version

    data[1000] ^= 1  # in the first piece
    Path(path).write_bytes(data)

    assert find_prompt_files(path, {})[0].version != version


# ---- S3 --------------------------------------------------------------------------------------------------------------


def put_prompts(server: S3Server, url: str) -> None:
    table = pa.table({"prompt": [str(n) for n in range(20)]})
    with server.filesystem().open(url, "wb") as file:
        pq.write_table(table, file, row_group_size=6)


def test_prompts_are_found_and_read_on_s3(s3_server: S3Server, s3_folder: str) -> None:
    put_prompts(s3_server, f"{s3_folder}/a.parquet")
    put_prompts(s3_server, f"{s3_folder}/_temporary/b.parquet")

    files = [
        find_prompt_files(place, s3_server.storage_options)
        for place in (s3_folder, f"{s3_folder}/", f"{s3_folder}/*.parquet", f"{s3_folder}/a.parquet")
    ]

    assert files[0] == files[1] == files[2] == files[3]
    assert [(file.name, file.url) for file in files[0]] == [("a.parquet", f"{s3_folder}/a.parquet")]
    rows = read_rows(files[0][0], 5, 13, s3_server.storage_options)
    assert rows["prompt"].to_pylist() == [str(n) for n in range(5, 13)]


def test_a_file_changed_on_s3_is_another_version(s3_server: S3Server, s3_folder: str) -> None:
    put_prompts(s3_server, f"{s3_folder}/a.parquet")
    (planned,) = find_prompt_files(s3_folder, s3_server.storage_options)
    with s3_server.filesystem().open(f"{s3_folder}/a.parquet", "wb") as file:
        pq.write_table(pa.table({"prompt": ["other"]}), file)

    assert find_prompt_files(s3_folder, s3_server.storage_options)[0].version != planned.version
    with pytest.raises(PromptsError, match=r"was changed after this job was planned"):
        read_rows(planned, 0, 1, s3_server.storage_options)


def test_a_missing_bucket_or_folder_is_refused(s3_server: S3Server, s3_folder: str) -> None:
    moto_adds = "(: The specified bucket does not exist)?"
    with pytest.raises(StorageError, match=rf"s3://no-such-bucket/prompts is not there{moto_adds}$"):
        names("s3://no-such-bucket/prompts", **s3_server.storage_options)
    with pytest.raises(PromptsError, match=r"no prompt files match s3://tests/"):
        names(s3_folder, **s3_server.storage_options)


def test_wrong_credentials_are_refused(s3_server: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not s3_server.checks_signatures:
        pytest.skip(f"{s3_server.name} checks no signatures")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")

    with pytest.raises(StorageError, match=rf"{s3_folder} may not be used with the credentials given"):
        # an option of its own, so that no client with the right keys is found in fsspec's cache
        names(s3_folder, **s3_server.storage_options, config_kwargs={"user_agent_extra": "wrong-keys"})


def test_an_endpoint_that_refuses_connections_may_answer_later(aws_environment: None) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        endpoint_url = f"http://127.0.0.1:{closed.getsockname()[1]}"

        with pytest.raises(StorageUnreachable, match=r"s3://tests/prompts cannot be reached: Could not connect"):
            names("s3://tests/prompts", endpoint_url=endpoint_url)


def test_an_endpoint_that_never_answers_is_tried_twice(aws_environment: None) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint_url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(StorageUnreachable, match=r"s3://tests/prompts cannot be reached: Read timeout on endpoint"):
            names("s3://tests/prompts", endpoint_url=endpoint_url, config_kwargs={"read_timeout": 0.2})

        silent.settimeout(0.5)
        silent.accept()
        silent.accept()
        with pytest.raises(TimeoutError):
            silent.accept()


def test_a_web_server_that_never_answers_is_left_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIRST_CONTACT, "read_timeout", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        with pytest.raises(StorageUnreachable, match=r"prompts.parquet cannot be reached: .*[Tt]imeout"):
            names(f"http://127.0.0.1:{silent.getsockname()[1]}/prompts.parquet")


def test_storage_options_do_not_apply_to_prompts_on_a_web_server() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/prompts.parquet"

        with pytest.raises(StorageUnreachable, match=r"prompts.parquet cannot be reached"):
            names(url, client_kwargs={"region_name": "eu-west-1"}, endpoint_url=1, block_size="x")


@pytest.mark.parametrize(
    ("url", "options", "refusal"),
    [
        ("s3://tests/prompts", {"endpoint_url": "nonsense"}, "s3://tests/prompts cannot be used: Invalid endpoint"),
        (
            "s3://tests/prompts",
            {"endpoint": "x"},
            "s3://tests/prompts cannot be opened with storage options endpoint: ",
        ),
        ("s4://tests/prompts", {}, "s4://tests/prompts cannot be used: Protocol not known: s4"),
    ],
)
def test_an_invalid_address_is_refused(aws_environment: None, url: str, options: dict[str, str], refusal: str) -> None:
    with pytest.raises(StorageError, match=refusal):
        names(url, **options)


def test_storage_options_do_not_apply_to_local_prompts(folder: Path) -> None:
    assert names(folder, endpoint_url="http://127.0.0.1:9") == ["b.parquet", "sub/a.parquet"]


def test_storage_options_may_have_sections_and_lists(s3_server: S3Server, s3_folder: str) -> None:
    put_prompts(s3_server, f"{s3_folder}/a.parquet")
    options = {"client_kwargs": dict(s3_server.storage_options), "config_kwargs": {"proxies": {}}}

    (file,) = find_prompt_files(s3_folder, options)

    assert read_rows(file, 0, 1, options)["prompt"].to_pylist() == ["0"]
