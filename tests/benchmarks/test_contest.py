"""The contest of the engines: who is timed, who has no room, and what is said of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from benchmarks.contest import Case, Result, measure, over_the_script, table_row

CPU = torch.device("cpu")


def case(**fields: Any) -> Case:
    defaults: dict[str, Any] = {
        "model": "A",
        "dtype": "float32",
        "num_images": 16,
        "ours": lambda: None,
        "public_loop": lambda: None,
        "generate": None,
        "limit_s": 0.5,
    }
    return Case(**defaults | fields)


def result(num_images: int, **seconds: float) -> Result:
    return Result(model="A", dtype="float32", num_images=num_images, limit_s=0.5, seconds=seconds)


def test_contestants_take_turns_and_the_first_round_is_not_timed() -> None:
    turns: list[str] = []
    ticks = itertools.count()
    contest = case(ours=lambda: turns.append("ours"), public_loop=lambda: turns.append("loop"))

    found = measure(contest, 2, CPU, lambda: float(next(ticks)))

    assert turns == ["ours", "loop"] * 3
    assert found.seconds == {"ours": 1.0, "public_loop": 1.0}


def test_a_contestant_without_memory_is_left_out_unless_it_is_ours() -> None:
    def no_room() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = measure(case(public_loop=no_room), 1, CPU, itertools.count().__next__)
    assert list(found.seconds) == ["ours"]
    assert " | - | - | - | - | " in table_row(found)
    with pytest.raises(torch.OutOfMemoryError):
        measure(case(ours=no_room), 1, CPU, itertools.count().__next__)


def test_a_row_has_speeds_ratios_and_the_share_of_the_limit() -> None:
    row = table_row(result(16, ours=1.0, public_loop=2.0, generate=4.0))
    assert row == "| A | float32 | 16 | 16 | 8 | 2.00 | 4 | 4.00 | 32 | 50% |"


def test_our_best_batch_is_compared_with_the_scripts_own() -> None:
    rows = [result(16, ours=4.0, public_loop=8.0), result(128, ours=8.0), result(8, ours=1.0, public_loop=1.0)]
    (line,) = over_the_script(rows)
    assert line.startswith("A, float32: ours at 128 images is 8.00 times the public loop at 16, ")
    assert over_the_script(rows[1:]) == []
