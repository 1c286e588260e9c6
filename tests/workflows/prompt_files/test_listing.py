"""Which files a folder or a glob selects: those of one format, whose names say it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import fsspec
import pytest

from tests.support.toy_job import write_prompts
from workflows.prompt_files.formats import Format, format_of, without_ending
from workflows.prompts import PromptsError, find_prompt_files, read_rows


def names(path: Path | str) -> list[str]:
    return [file.name for file in find_prompt_files(str(path), {})]


@pytest.mark.parametrize(
    ("name", "expected", "stem"),
    [
        ("a/b.parquet", Format(name="Parquet", ending=".parquet"), "a/b"),
        ("b.pq", Format(name="Parquet", ending=""), "b.pq"),
        ("b.PARQUET", Format(name="Parquet", ending=".parquet"), "b.PARQUET"),
        ("b.csv", Format(name="CSV", ending=".csv"), "b"),
        ("B.TSV.GZ", Format(name="CSV", ending=".tsv", compression="gzip"), "B"),
        ("b.x.jsonl.bz2", Format(name="JSON lines", ending=".jsonl", compression="bz2"), "b.x"),
        ("b.json", Format(name="JSON lines", ending=".json"), "b"),
        ("b.txt.xz", Format(name="text", ending=".txt", compression="xz"), "b"),
        ("b.arrow", Format(name="Arrow", ending=".arrow"), "b"),
        ("b.parquet.gz", Format(name="Parquet", ending=""), "b.parquet.gz"),
        ("csv", Format(name="Parquet", ending=""), "csv"),
    ],
)
def test_the_ending_of_a_name_says_the_format(name: str, expected: Format, stem: str) -> None:
    assert format_of(name) == expected
    assert without_ending(name) == stem


def test_files_of_several_formats_are_refused_by_name(tmp_path: Path) -> None:
    write_prompts(tmp_path / "sub/more.parquet", {"prompt": ["a"]})
    (tmp_path / "prompts.csv").write_text("prompt\na\n")
    for path, advice in ((tmp_path, "select those of one format, such as"), (tmp_path / "**/*", "matches files of")):
        with pytest.raises(PromptsError, match=r"prompts.csv \(CSV\) and sub/more.parquet \(Parquet\)") as refused:
            names(path)
        assert advice in str(refused.value)
    assert names(tmp_path / "*.csv") == ["prompts.csv"]


def test_readmes_and_metadata_are_no_prompts_unless_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "README.txt").write_text("how these were made\n")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "notes.md").write_text("more\n")
    assert names(tmp_path) == ["prompts.jsonl"]
    (tmp_path / "prompts.jsonl").unlink()
    (tmp_path / "dataset_info.json").unlink()
    assert names(tmp_path) == ["README.txt"]


def test_two_files_whose_rows_would_have_the_same_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\na\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"prompt\na\n"))
    with pytest.raises(PromptsError, match=r"a.csv and a.csv.gz in .* would give their rows the same ids; rename one"):
        names(tmp_path)


def test_partitions_are_columns_of_files_of_every_format(tmp_path: Path) -> None:
    for day, prompt in ((1, "one"), (2, "two")):
        (tmp_path / f"day={day}").mkdir()
        (tmp_path / f"day={day}/a.csv").write_text(f"prompt\n{prompt}\n")
    found = find_prompt_files(str(tmp_path), {})
    assert [row for file in found for row in read_rows(file, 0, 1, {}).to_pylist()] == [
        {"prompt": "one", "day": 1},
        {"prompt": "two", "day": 2},
    ]


def test_folders_that_set_a_column_to_two_values_are_refused(tmp_path: Path) -> None:
    write_prompts(tmp_path / "day=1/day=2/a.parquet", {"prompt": ["one"]})
    with pytest.raises(PromptsError, match=r"the folders of day=1/day=2/a.parquet set `day` to two values"):
        find_prompt_files(str(tmp_path), {})


def test_a_file_whose_name_is_not_utf8_is_refused_by_it(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.parquet")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(PromptsError, match=r"prompts: the name of .*/caf\?.parquet is not UTF-8 text; rename the file"):
        find_prompt_files(str(tmp_path), {})


def test_what_is_no_parquet_file_is_told_the_endings(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("prompt\na\n")
    with pytest.raises(PromptsError, match=r"is no Parquet file, it is CSV or other text; the ending of a name says"):
        names(tmp_path / "prompts")


def test_a_link_stands_for_the_file_or_folder_that_it_points_to(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "prompts"
    folder.mkdir()
    for name in ("a", "days/split=train/b", "days/_temporary/c"):
        write_prompts(elsewhere / f"{name}.parquet", {"prompt": [name]})
    (folder / "a.parquet").symlink_to("../elsewhere/a.parquet")
    (folder / "days").symlink_to(elsewhere / "days")
    assert names(folder) == ["a.parquet", "days/split=train/b.parquet"]
    assert names(folder / "*") == ["a.parquet"]  # as in a shell, a glob of one star finds no files in folders

    a, b = find_prompt_files(str(folder), {})
    assert (a.url, b.hive_values) == ((folder / "a.parquet").as_uri(), (("split", "train"),))
    assert read_rows(b, 0, 1, {})["prompt"].to_pylist() == ["days/split=train/b"]
    (copied,) = find_prompt_files(str(elsewhere / "a.parquet"), {})
    assert a.version == copied.version


def test_what_a_folder_has_under_its_own_name_and_as_a_link_counts_once(tmp_path: Path) -> None:
    write_prompts(tmp_path / "2026-11-26/a.parquet", {"prompt": ["a"]})
    write_prompts(tmp_path / "b.parquet", {"prompt": ["b"]})
    (tmp_path / "latest").symlink_to("2026-11-26")
    (tmp_path / "latest.parquet").symlink_to("b.parquet")
    (tmp_path / "2026-11-26/up").symlink_to("..")
    assert names(tmp_path) == ["2026-11-26/a.parquet", "b.parquet"]
    assert names(tmp_path / "*.parquet") == ["b.parquet"]


def test_a_mounted_config_map_has_its_files_once(tmp_path: Path) -> None:
    (tmp_path / "..2026_11_26").mkdir()
    (tmp_path / "..2026_11_26/prompts.csv").write_text("prompt\na\n")
    (tmp_path / "..data").symlink_to("..2026_11_26")
    (tmp_path / "prompts.csv").symlink_to("..data/prompts.csv")
    assert names(tmp_path) == ["prompts.csv"]
    assert names(tmp_path / "*.csv") == ["prompts.csv"]


def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        write_prompts(tmp_path / name / f"{name}.parquet", {"prompt": ["a"]})
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    assert names(tmp_path / "one") == ["link/two.parquet", "one.parquet"]


def test_a_refusal_names_places_on_a_store_so_that_the_advice_can_be_followed(tmp_path: Path) -> None:
    """fsspec's paths are without the protocol, and would lead to the local disk."""
    fs = fsspec.filesystem("memory")
    for name in ("mixed/a.csv", "mixed/b.jsonl", "table/_delta_log/0.json", "split/train/a.csv", "split/test/a.csv"):
        fs.pipe_file(f"/{tmp_path.name}/{name}", b"prompt\na\n")
    place = f"memory://{tmp_path.name}"
    with pytest.raises(PromptsError, match=r"select those of one format, such as (?P<advice>memory://\S+)$") as refused:
        names(f"{place}/mixed")
    assert names(str(refused.value).rpartition("such as ")[2]) == ["a.csv"]
    with pytest.raises(PromptsError, match=rf"prompts: memory://\S*{tmp_path.name}/table holds a Delta table"):
        names(f"{place}/table")

    for split in ("train", "test"):
        fs.pipe_file(f"/{tmp_path.name}/split/{split}/state.json", b"{}")
    fs.pipe_file(f"/{tmp_path.name}/split/dataset_dict.json", b"{}")
    with pytest.raises(PromptsError, match="name one of them: memory://") as refused:
        names(f"{place}/split")
    assert names(str(refused.value).rpartition("them: ")[2]) == ["a.csv"]
