"""Prompts given as text are stored in the output once; other prompts, and outputs of other jobs, are refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.toy_job import bytes_of, make_job, manifest_of, recipe, render, write_prompts
from workflows.output.claim import OtherJobError
from workflows.output.given_prompts import given_prompts_location, prompt_table, store_prompts
from workflows.storage.damage import DamagedFileError

PROMPTS = ["a red fox", "قطة 🦊", "a red fox"]


def job_in(output: Path, **changes):
    return make_job(given_prompts_location(str(output)), output, **changes)


def test_the_rows_of_the_job_are_the_prompts_in_their_order(tmp_path: Path) -> None:
    job = job_in(tmp_path / "out")

    store_prompts(job, prompt_table(PROMPTS))
    render(job)

    assert [(row["prompt_id"], row["prompt"]) for row in manifest_of(job)] == [
        (f"prompt-{number:09d}", prompt) for number, prompt in enumerate(PROMPTS)
    ]


def test_the_same_prompts_leave_the_stored_file_as_it_is(tmp_path: Path) -> None:
    job = job_in(tmp_path / "out")
    store_prompts(job, prompt_table(PROMPTS))
    file = tmp_path / "out/prompts/prompt.parquet"
    pq.write_table(pa.table({"prompt": PROMPTS}), file)  # as another version of Arrow would write them
    before = bytes_of(tmp_path)

    store_prompts(job, prompt_table(PROMPTS))

    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["a red fox"], "belongs to a job with other prompts: it has 3, yours are 1; give the same prompts"),
        (["a red fox", "قطة", "a red fox"], "its prompt 2 is 'قطة 🦊', yours is 'قطة'; give the same prompts"),
        (["قطة 🦊", "a red fox", "a red fox"], "its prompt 1 is 'a red fox', yours is 'قطة 🦊'"),
        (["a red fox", "x\x1b[2J" * 100, "a red fox"], r"yours is 'x\?\[2Jx.*\.\.\.'; .*render into another output"),
    ],
)
def test_other_prompts_are_refused(tmp_path: Path, others: list[str], message: str) -> None:
    job = job_in(tmp_path / "out")
    store_prompts(job, prompt_table(PROMPTS))

    with pytest.raises(OtherJobError, match=message):
        store_prompts(job, prompt_table(others))


def test_an_output_of_another_job_stays_as_it_is(tmp_path: Path) -> None:
    of_a_file = make_job(write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"]}), tmp_path / "out")
    render(of_a_file)
    before = bytes_of(tmp_path)

    with pytest.raises(OtherJobError, match=r"belongs to a job with prompts = .*prompts\.parquet"):
        store_prompts(job_in(tmp_path / "out"), prompt_table(PROMPTS))
    with pytest.raises(OtherJobError, match="belongs to a job with prompts"):
        store_prompts(job_in(tmp_path / "out", recipe=recipe(seed=1)), prompt_table(PROMPTS))
    assert bytes_of(tmp_path) == before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_prompts(tmp_path / "out/prompts/prompt.parquet", {"prompt": PROMPTS})
    (tmp_path / "out/prompts/prompt.parquet").write_bytes(b"no Parquet")

    with pytest.raises(DamagedFileError, match=r"out/prompts/prompt\.parquet"):
        store_prompts(job_in(tmp_path / "out"), prompt_table(PROMPTS))
