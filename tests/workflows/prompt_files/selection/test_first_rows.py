"""With a limit alone, text is read up to the last row that it asks for, and resumed and checked like whole files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc

from jobs.terminal.lines import rows_in_files
from tests.support.toy_job import make_job, manifest_of, plan_job, render
from workflows.job import PromptReading
from workflows.output.remaining import find_job_prompts
from workflows.prompt_files.conversion.find import READ_BYTES
from workflows.prompts import PromptFile, PromptsError, find_prompt_files, read_rows


def found(location: Path, limit: int, **reading: Any) -> list[PromptFile]:
    return find_prompt_files(str(location), {}, reading=PromptReading(limit=limit, **reading))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'prompt,n\n"a\ncat",1\n\na dog,2\nno, row,3\n'),
        ("a.jsonl", '{"prompt": "a\\ncat", "n": 1}\n\n{"prompt": "a dog", "n": 2}\n{"prompt": "x", "n": "3"}\n'),
    ],
)
def test_a_line_after_the_last_row_is_not_looked_at(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (file,) = found(tmp_path, 2)
    assert read_rows(file, 0, 2, {}).to_pylist() == [{"prompt": "a\ncat", "n": 1}, {"prompt": "a dog", "n": 2}]
    assert (file.is_cut, file.num_skipped) == (True, 1)
    for reading in ({"limit": 3}, {"limit": 1, "deduplicate": True}, {"limit": 1, "where": "n > 0"}):
        with pytest.raises(PromptsError, match=r"line (4|6) of"):
            found(tmp_path, **reading)


def test_files_after_the_last_row_are_not_read(tmp_path: Path) -> None:
    for name, text in (("a.txt", "a cat\n"), ("b.txt", ""), ("c.txt", "a dog\na fox\n"), ("d.txt", b"\xff\n")):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert [(file.name, file.num_rows, file.is_cut) for file in found(tmp_path, 2)] == [
        ("a.txt", 1, False),
        ("b.txt", 0, False),
        ("c.txt", 1, True),
    ]
    with pytest.raises(PromptsError, match=r"line 1 of .*d.txt"):
        found(tmp_path, 4)


def test_arrow_files_are_cut_too(tmp_path: Path) -> None:
    table = pa.table({"prompt": [f"a picture of {number}" for number in range(10)]})
    with ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=4)
    (file,) = found(tmp_path, 6)
    assert read_rows(file, 0, 6, {})["prompt"].to_pylist() == table["prompt"].to_pylist()[:6]
    assert file.is_cut


def test_a_run_resumes_with_the_rows_that_the_first_one_kept_and_refuses_changed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a picture of the number {number:07}\n" for number in range(3 * READ_BYTES // 32)))
    job = make_job(prompts, tmp_path / "out", reading=PromptReading(limit=3))
    render(job)
    assert [row["prompt"][-1] for row in manifest_of(job)] == ["0", "1", "2"]
    assert [path.name.endswith(f"-{READ_BYTES}.parquet") for path in (tmp_path / "out/prompts").glob("prompts-*")] == [
        True
    ]

    with monkeypatch.context() as patch:
        patch.setattr("workflows.prompt_files.conversion.find.convert", lambda *_: pytest.fail("converted again"))
        _overwrite(prompts, 2 * READ_BYTES)
        assert plan_job(job).num_rows_remaining == 0
        assert rows_in_files(job, plan_job(job)) == "from the beginning of 1 file"
    assert [
        file.num_rows
        for file in find_job_prompts(replace(job, output=f"{tmp_path}/more", reading=PromptReading(limit=5)))
    ] == [5]
    _overwrite(prompts, 2)
    with pytest.raises(PromptsError, match="files were added, removed or changed"):
        plan_job(job)


def test_rows_that_are_added_to_a_file_are_a_change(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n")
    job = make_job(tmp_path / "a.txt", tmp_path / "out", reading=PromptReading(limit=3))
    render(job)
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    with pytest.raises(PromptsError, match="files were added, removed or changed"):
        plan_job(job)


def _overwrite(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(b"X")
