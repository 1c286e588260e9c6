"""Conditions on rows: what they select, and what is refused before a row is read."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from workflows.row_filter import MAX_DEPTH, RowFilterError, compile_filter

ROWS = pa.table(
    {
        "prompt": ["a cat", "a very long dog", None, "a fox"],
        "category": pa.array(["Animals", "Animals", "Plants", None]).dictionary_encode(),
        "score": pa.array([0.5, 0.9, None, 0.1], pa.float32()),
        "tags": [["big", "red"], [], None, ["small"]],
        "meta": [{"source": "x"}, {"source": "y"}, None, {"source": None}],
        "Owner": ["me", "you", "me", "you"],
        "made": pa.array([0, 86_399, 86_400, None], pa.timestamp("s", "Europe/Berlin")),
        "for": [1, 2, 3, 4],
    }
)


def selected(text: str, rows: pa.Table = ROWS) -> list[int]:
    mask = compile_filter(text, rows.schema).mask(rows)
    assert len(mask) == rows.num_rows
    return [index for index, is_selected in enumerate(mask.to_pylist()) if is_selected]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("category = 'Animals' and length(prompt) < 10", [0]),
        ("score > 0.4", [0, 1]),
        ("score is null or score < 0.2", [2, 3]),
        ("prompt like '%fox' or category in ('Plants')", [2, 3]),
        ("regexp_matches(prompt, '^a [cd]')", [0]),
        ("list_contains(tags, 'red')", [0]),
        ("len(list_filter(tags, lambda x: x = 'small')) > 0", [3]),
        ("meta.source = 'y'", [1]),
        ("meta['source'] = 'x'", [0]),
        ("OWNER = 'me'", [0, 2]),
        ('"for" between 2 and 3', [1, 2]),
        ("made::date = '1970-01-01'", [0, 1]),
        ("case when score > 0.8 then true else prompt is null end", [1, 2]),
        ("true", [0, 1, 2, 3]),
        ("prompt != '--' -- a comment", [0, 1, 3]),
    ],
)
def test_a_condition_selects_rows_as_sql_does(text: str, rows: list[int]) -> None:
    assert selected(text) == rows


def test_a_condition_reads_its_columns_alone_and_batches_like_tables() -> None:
    condition = compile_filter("score > 0.4 and category = 'Animals'", ROWS.schema)
    assert set(condition.columns) == {"score", "category"}
    batches = ROWS.select(["score", "category"]).to_batches(max_chunksize=1)
    assert [condition.mask(batch).to_pylist() for batch in batches] == [[True], [True], [False], [False]]
    assert condition.mask(ROWS.slice(0, 0)).to_pylist() == []


def test_text_that_is_not_utf8_counts_as_some_text() -> None:
    broken = pa.array([b"\xff\xfe", b"ok"], pa.binary()).view(pa.string())
    assert selected("length(prompt) > 0 and prompt not like 'x%'", pa.table({"prompt": broken})) == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("categry = 'x'", r"where: categry is no column .*; the columns are prompt, category, score"),
        ("score", r"where: must be a condition, which is true or false for a row; score has the type FLOAT"),
        ("null", r"has the type .*NULL"),
        ("score >", r"where: must be one SQL condition.*; syntax error at or near.*got score >"),
        ("", r"where: must be one SQL condition"),
        ("score > 1; select 2", r"without FROM, WHERE, AS or a second statement"),
        ("score > 1; drop table x", r"must be one SQL condition"),
        ("score > 1 from read_csv('/etc/passwd')", r"without FROM"),
        ("score > 1 where true", r"without FROM, WHERE"),
        ("score > 1 as x", r"AS"),
        ("true) or (true", r"syntax error"),
        ("score > 1, true", r"must be one SQL condition"),
        ("score > (select 1)", r"where: computes from the columns of one row, without subquery"),
        ("exists (from read_text('/etc/passwd'))", r"without subquery"),
        ("row_number() over () > 1", r"without window"),
        ("count(*) > 1", r"where: .*(aggregate|star)"),
        ("sum(score) > 1", r"where: .*aggregate"),
        ("unnest([true, false])", r"where: UNNEST"),
        ("score > $1", r"without parameter"),
        ("nope(score)", r"where: .*nope does not exist"),
        ("category > 3", r"where: Cannot compare values"),
        ("random() < 0.5", r"where: random depends on more than the row"),
        ("RANDOM() < 0.5", r"random depends on more than the row"),
        ("now() > made", r"now depends on more than the row"),
        ("made < current_date", r"current_date depends on more than the row"),
        ("uuid() > prompt", r"uuid depends on"),
        ("current_setting('threads') = '1'", r"current_setting depends on"),
        ("pg_catalog.pg_sleep(1) is null", r"pg_sleep depends on"),
        ("not " * 10_000 + "true", r"where: must be one SQL condition|expression tree"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(RowFilterError, match=message) as refused:
        compile_filter(text, ROWS.schema)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_columns_that_differ_in_case_alone_are_told_apart_or_refused() -> None:
    rows = pa.table({"Prompt": ["a", "b"], "prompt": ["b", "a"]})
    assert selected("prompt = 'a'", rows) == [1]
    assert selected("Prompt = 'a'", rows) == [0]
    with pytest.raises(RowFilterError, match="PROMPT matches several columns; the columns are Prompt, prompt"):
        compile_filter("PROMPT = 'a'", rows.schema)
    with pytest.raises(RowFilterError, match="must differ in more than case"):
        compile_filter("Prompt = prompt", rows.schema)


def test_a_condition_that_fails_on_a_row_says_why() -> None:
    condition = compile_filter("prompt::int > 3", ROWS.schema, name="--where")
    with pytest.raises(RowFilterError, match=r"--where: fails on a row: Could not convert string 'a cat'"):
        condition.mask(ROWS)
    assert selected("coalesce(try_cast(prompt as int) > 3, true)") == [0, 1, 2, 3]


def test_the_session_reads_no_files_and_no_python_variables() -> None:
    for text in ("read_text('/etc/passwd') is null", "ROWS is null"):
        with pytest.raises(RowFilterError):
            compile_filter(text, ROWS.schema)


def test_moments_are_read_in_utc_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    moment = datetime.datetime(2026, 1, 1, 23, 30, tzinfo=datetime.UTC)
    assert selected("day(made) = 1", pa.table({"made": [moment]})) == [0]


def test_long_lists_are_allowed() -> None:
    names = ", ".join(f"'{number}'" for number in range(20 * MAX_DEPTH))
    assert selected(f"prompt not in ({names})") == [0, 1, 3]


@pytest.mark.parametrize(
    "kind",
    [
        pa.float16(),
        pa.decimal256(5, 2),
        pa.list_(pa.uuid()),
        pa.list_(pa.float16()),
        pa.fixed_shape_tensor(pa.int8(), [2, 2], permutation=[1, 0]),
    ],
)
def test_a_column_that_duckdb_does_not_read_is_named_with_its_type(kind: pa.DataType) -> None:
    schema = pa.schema([("a", pa.int64()), ("odd", kind)])

    with pytest.raises(RowFilterError, match=r"^where: cannot read column odd, whose type is \S.*$"):
        compile_filter("a > 1 and odd is not null", schema)
    assert compile_filter("a > 1", schema).columns == ("a",)
