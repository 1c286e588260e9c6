"""The plan: every row in one shard, committed ranges left out, other files and other sizes changing nothing."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.toy_job import write_prompts
from workflows.plan import Plan, Shard, SourceChangedError, make_plan, row_range
from workflows.prompts import PromptFile, find_prompt_files


def prompt_file(name: str = "prompts.parquet", num_rows: int = 10, version: str = "0badcafe") -> PromptFile:
    return PromptFile(url=f"file:///p/{name}", name=name, version=version, num_bytes=1000, num_rows=num_rows)


def ranges_of(plan: Plan) -> list[tuple[str, int, int]]:
    return [(shard.file.name, shard.start, shard.stop) for shard in plan.remaining_shards()]


def rows_of(shards: list[Shard]) -> list[tuple[str, int]]:
    return [(shard.file.name, row) for shard in shards for row in range(shard.start, shard.stop)]


def test_a_plan_is_made_of_ranges_of_each_file() -> None:
    plan = make_plan([prompt_file("a.parquet", 10), prompt_file("b.parquet", 3), prompt_file("c.parquet", 0)], [], 4)

    assert ranges_of(plan) == [
        ("a.parquet", 0, 4),
        ("a.parquet", 4, 8),
        ("a.parquet", 8, 10),
        ("b.parquet", 0, 3),
    ]
    assert (plan.num_rows, plan.num_rows_committed, plan.num_shards_remaining) == (13, 0, 4)


def test_only_footers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path / "a.parquet", {"prompt": ["x"] * 1000})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a row group was read")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", refuse)
    monkeypatch.setattr(pq.ParquetFile, "read", refuse)
    monkeypatch.setattr(pq, "read_table", refuse)

    assert make_plan(find_prompt_files(str(tmp_path), {}), [], 10).num_shards_remaining == 100


@given(st.lists(st.integers(0, 60), max_size=4), st.integers(1, 70))
def test_shards_of_any_size_cover_every_row_once(sizes: list[int], shard_rows: int) -> None:
    files = [prompt_file(f"{n}.parquet", size) for n, size in enumerate(sizes)]
    plan = make_plan(files, [], shard_rows)
    shards = list(plan.remaining_shards())

    assert rows_of(shards) == [(file.name, row) for file in files for row in range(file.num_rows)]
    assert all(0 < shard.num_rows <= shard_rows for shard in shards)
    assert len({shard.id for shard in shards}) == len(shards) == plan.num_shards_remaining


@given(st.integers(0, 80), st.lists(st.tuples(st.integers(1, 30), st.sets(st.integers(0, 79))), max_size=3))
def test_a_resume_with_any_shard_rows_covers_exactly_the_gaps(num_rows: int, runs: list[tuple[int, set[int]]]) -> None:
    """Each run has its own shard_rows and is stopped after some of its shards."""
    file, committed = prompt_file(num_rows=num_rows), list[Shard]()

    for shard_rows, chosen in runs:
        shards = list(make_plan([file], [shard.id for shard in committed], shard_rows).remaining_shards())
        committed += [shard for number, shard in enumerate(shards) if number in chosen]
    last = make_plan([file], [shard.id for shard in committed], 7)

    assert sorted(rows_of(committed) + rows_of(list(last.remaining_shards()))) == [
        (file.name, row) for row in range(num_rows)
    ]
    assert last.num_rows_committed == sum(shard.num_rows for shard in committed)


def test_rows_in_two_overlapping_shards_count_once() -> None:
    file = prompt_file(num_rows=10)
    both = [Shard(file=file, start=start, stop=stop).id for start, stop in ((0, 4), (0, 6), (2, 5))]

    plan = make_plan([file], both, 4)

    assert plan.num_rows_committed == 6
    assert ranges_of(plan) == [(file.name, 6, 10)]


def test_an_added_file_adds_shards_and_changes_none() -> None:
    old, new = prompt_file("b.parquet"), prompt_file("a.parquet")

    before = {shard.id for shard in make_plan([old], [], 4).remaining_shards()}
    after = {shard.id for shard in make_plan([new, old], [], 4).remaining_shards()}

    assert before < after
    assert len(after) == 2 * len(before)


def test_a_removed_file_leaves_its_images_and_the_other_shards() -> None:
    kept, gone = prompt_file("a.parquet"), prompt_file("b.parquet")
    committed = [shard.id for shard in make_plan([kept, gone], [], 10).remaining_shards()]

    assert ranges_of(make_plan([kept], committed, 10)) == []


def test_other_files_in_the_manifest_folder_are_ignored() -> None:
    assert ranges_of(make_plan([prompt_file()], ["notes", "part-0", ""], 10)) == [("prompts.parquet", 0, 10)]


def test_a_changed_file_is_refused_by_name() -> None:
    old = prompt_file("part-7.parquet", version="00000001")
    committed = [Shard(file=old, start=0, stop=4).id]

    with pytest.raises(SourceChangedError, match=r"/p/part-7.parquet was changed .* was 00000001, now 00000002\)"):
        make_plan([prompt_file("part-7.parquet", version="00000002")], committed, 4)


def test_a_changed_file_without_rendered_rows_is_allowed() -> None:
    committed = [Shard(file=prompt_file("a.parquet"), start=0, stop=10).id]

    plan = make_plan([prompt_file("a.parquet"), prompt_file("b.parquet", version="ffffffff")], committed, 10)

    assert ranges_of(plan) == [("b.parquet", 0, 10)]


@pytest.mark.parametrize(
    ("old", "new", "version", "told"),
    [
        ("a.parquet", "b.parquet", "0badcafe", "has the content of a file with another name, which was rendered into"),
        ("split=a/0.parquet", "split=b/0.parquet", "0badcafe", "has the content of a file with another name"),
        (
            "a.csv.gz",
            "a.csv",
            "ffffffff",
            r"has the ids of the rows of a\.csv\.gz, which was rendered into this output",
        ),
        ("x/a.jsonl", "x/a.parquet", "ffffffff", r"has the ids of the rows of x/a\.jsonl"),
    ],
)
def test_a_file_that_was_renamed_after_its_rows_were_rendered_is_refused(
    old: str, new: str, version: str, told: str
) -> None:
    committed = [Shard(file=prompt_file(old), start=0, stop=4).id]

    with pytest.raises(SourceChangedError, match=rf"/p/{new} {told}.* give it its old name"):
        make_plan([prompt_file(new, version=version)], committed, 4)
    assert make_plan([prompt_file(old), prompt_file(new, version=version)], committed, 4).num_rows == 20


def test_a_new_file_is_no_renamed_one() -> None:
    committed = [Shard(file=prompt_file("a.csv"), start=0, stop=10).id]

    for new in (
        prompt_file("b.csv", version="ffffffff"),
        prompt_file("b.csv", num_rows=9),
        prompt_file("sub/a.txt", version="1"),
    ):
        assert ranges_of(make_plan([new], committed, 10)) == [(new.name, 0, new.num_rows)]


def test_shards_are_made_one_at_a_time() -> None:
    plan = make_plan([prompt_file(num_rows=10**12)], [], 1)

    tracemalloc.start()
    num_taken = sum(1 for _ in itertools.islice(plan.remaining_shards(), 10_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert num_taken == 10_000
    assert peak < 50_000
    assert plan.num_shards_remaining == 10**12


# ---- ids -------------------------------------------------------------------------------------------------------------


def test_a_shard_id_is_readable_and_says_its_range() -> None:
    shard = Shard(file=prompt_file("sub/parti prompts-v2.parquet"), start=256, stop=512)

    # the first 12 hex digits of `printf 'sub/parti prompts-v2.parquet' | sha256sum`
    assert shard.id == "parti_prompts_v2-41bb608e4338-0badcafe-000000256-000000512"
    assert row_range(shard.id) == (256, 512)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=60))
def test_a_shard_id_is_a_plain_file_name_that_readers_do_not_skip(stem: str) -> None:
    shard = Shard(file=prompt_file(f"{stem}.parquet"), start=0, stop=10)

    assert set(shard.id) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
    assert not shard.id.startswith((".", "_", "-"))
    assert len(shard.id) < 120
    assert ranges_of(make_plan([shard.file], [shard.id], 10)) == []


def test_a_manifest_part_of_a_file_with_an_odd_name_is_found_by_dataset_readers(tmp_path: Path) -> None:
    shard = Shard(file=prompt_file("_émigré.parquet"), start=0, stop=10)
    write_prompts(tmp_path / f"{shard.id}.parquet", {"prompt": ["a"]})

    assert ds.dataset(tmp_path).count_rows() == 1


def test_files_with_one_name_in_two_folders_are_told_apart() -> None:
    ids = {Shard(file=prompt_file(name), start=0, stop=1).id for name in ("a/p.parquet", "b/p.parquet", "p.parquet")}

    assert len(ids) == 3


def test_the_id_of_a_shard_beyond_a_billion_rows_can_be_read() -> None:
    file = prompt_file(num_rows=2 * 10**9)
    committed = [Shard(file=file, start=0, stop=10**9).id, Shard(file=file, start=10**9, stop=2 * 10**9 - 5).id]

    assert ranges_of(make_plan([file], committed, 10)) == [(file.name, 2 * 10**9 - 5, 2 * 10**9)]


def test_an_id_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a shard id must end in -<hash>-<version>-<start>-<stop>, got 'part-0'"):
        row_range("part-0")
