"""The first and the last lines of a run: the counts, the reasons for rejected images, and the next commands."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.terminal.lines import plan_lines, progress_line, result_lines
from tests.support.toy_job import judge, make_job, plan_job, recipe, write_prompts
from workflows.dispatch.phases import Phase
from workflows.dispatch.progress import Progress
from workflows.job import PromptReading
from workflows.output.tally import Tally
from workflows.run import Result


def lines_of(reasons: dict[str, int], output: str = "/data/out") -> list[str]:
    tally = Tally(num_shards=1, num_images=10, num_rejected=sum(reasons.values()), reasons=Counter(reasons))
    job = make_job("prompts.parquet", output)
    phases: dict[Phase, float] = {"planning": 0.42, "starting Ray": 5.0, "rendering": 1.0, "report": 0.98}
    report = f"{output}/report.html"
    result = Result(job=job, tally=tally, progress=Progress(), seconds=7.4, phases=phases, report=report)
    return result_lines(result)


def test_without_rejected_images_the_next_commands_end_the_run() -> None:
    assert lines_of({}) == [
        "done: 10 images, 0 rejected, in 7 s",
        "time      planning 0.4 s, starting Ray 5.0 s, rendering 1.0 s, report 1.0 s",
        "images    /data/out/images",
        "manifest  /data/out/manifest   (one row per image: prompt, seed, weight, model, hash)",
        "report    /data/out/report.html",
        "next      janus-batch status /data/out",
        "          janus-batch verify /data/out",
        "          janus-batch export /data/out DEST --layout imagefolder",
    ]


def test_the_three_most_frequent_reasons_are_named() -> None:
    lines = lines_of({"rare": 1, "prompt is empty": 1200, "prompt is null": 30, "too\nlong": 4, "odd": 2})

    start = lines.index("rejected  /data/out/rejected   (one row per rejection, with its reason)")
    assert lines[start + 1 : start + 5] == [
        "          1,200 x prompt is empty",
        "          30 x prompt is null",
        "          4 x too?long",
        "          and 2 more reasons; see the files in rejected/",
    ]
    assert "          janus-batch retry-rejected /data/out" in lines


@pytest.mark.parametrize(
    ("reasons", "last"),
    [({"a": 1}, "1 x a"), ({"a": 4, "b": 3, "c": 2, "d": 1}, "and 1 more reason; see the files in rejected/")],
)
def test_only_reasons_that_are_not_shown_are_counted(reasons: dict[str, int], last: str) -> None:
    lines = lines_of(reasons)

    assert lines[lines.index("report    /data/out/report.html") - 1] == f"          {last}"


def test_the_commands_can_be_pasted_for_any_folder() -> None:
    assert "          janus-batch verify '/data/my $out'" in lines_of({}, "/data/my $out")


def test_the_first_lines_say_how_many_rows_are_selected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n\na dog\na fox\n")
    job = make_job(tmp_path / "a.txt", tmp_path / "out")
    some = replace(job, reading=PromptReading(limit=2))

    assert plan_lines(job, plan_job(job), is_resumed=False)[1].startswith(
        "3 prompts in 1 file without 1 empty line x 1 ="
    )
    assert plan_lines(some, plan_job(some), is_resumed=False)[1].startswith(
        "2 prompts from the beginning of 1 file without 1 empty line x 1 = 2 images"
    )


def test_a_job_that_looks_says_how_and_what_that_cost(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"]})
    looking = judge(best_of=4, retry_below=0.5, max_tries=3, caption_tokens=9)
    job = make_job(path, tmp_path / "out", recipe=recipe(judge=looking))
    progress = Progress(num_images=8, num_candidates=36, num_rerolls=1, looking_seconds=2.5)
    tally = Tally(num_shards=1, num_images=8, num_rejected=0, reasons=Counter())

    first = plan_lines(job, plan_job(job), is_resumed=False)
    last = result_lines(Result(job=job, tally=tally, progress=progress, seconds=7.4, phases={}, report=None))

    assert "judge: toy, best of 4, re-rolled below 0.5, up to 3 tries, with captions" in first
    assert "      4.5 candidates per image, 1 re-roll, 2.5 s spent looking at them" in last
    assert "4.5 candidates per image · 1 re-roll" in progress_line(progress)
    assert "candidates" not in progress_line(Progress(num_images=8))
