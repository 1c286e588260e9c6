"""How many images share a JanusFlow batch, and how the batch's rows are split into calls of the network.

On a CPU a row's bits are the same for 1 to 16 rows per call. On a GPU they depend on the number of rows, so there every
call has exactly ROWS_PER_CALL of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

ROWS_PER_CALL = 16  # at most: a few rows of hundreds of tokens fill any device
IMAGES_PER_BATCH = {"cpu": 4, "cuda": 16}


def call_in_parts(compute: Callable[[list[int]], torch.Tensor], num_rows: int, *, is_filled_up: bool) -> torch.Tensor:
    """`compute(rows)` of the rows 0 to `num_rows` - 1, in calls of at most ROWS_PER_CALL rows, concatenated.

    With `is_filled_up` every call has ROWS_PER_CALL rows: its first row is repeated and the results are dropped.
    """
    parts = []
    for start in range(0, num_rows, ROWS_PER_CALL):
        rows = list(range(start, min(start + ROWS_PER_CALL, num_rows)))
        num_missing = ROWS_PER_CALL - len(rows) if is_filled_up else 0
        parts.append(compute(rows + rows[:1] * num_missing)[: len(rows)])
    return torch.cat(parts)
