"""Bisection finds the rows of a shard that kill the actors rendering it: row ranges are rendered alone. Ray-free.

A row is rejected once it has failed `row_tries` times by itself, each time in a new process that had just rendered
other rows of the job. A fault of the cluster (a bad node, a lost GPU) fails those other rows, too: it rejects no row
and soon ends the bisection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


class NotTheRowsError(RuntimeError):
    """The bisection gave up: too many ranges failed for single rows to be at fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BisectionLimits:
    """When a row is rejected and when a bisection gives up.

    `row_tries`: failures of a row by itself. `max_failures_in_a_row`: failures with no successful range between them.
    `max_failures`: failures in one shard; 64 are enough for about eight bad rows.
    """

    row_tries: int = 2
    max_failures_in_a_row: int = 8
    max_failures: int = 64


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class RowRange:
    """Rows `start` to `stop` of a shard, counted from the shard's first."""

    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    def halves(self) -> tuple[RowRange, RowRange]:
        middle = (self.start + self.stop) // 2
        return RowRange(start=self.start, stop=middle), RowRange(start=middle, stop=self.stop)


class Bisection:
    """The state of one shard's bisection: ranges still to render, ranges that were rendered, and rejected rows.

    The widest ranges come first, so that good halves are known before the search goes deeper.
    """

    def __init__(self, num_rows: int, limits: BisectionLimits | None = None) -> None:
        whole = RowRange(start=0, stop=num_rows)
        self._limits = limits or BisectionLimits()
        self._waiting = deque([whole] if num_rows == 1 else whole.halves())
        self._rendered: dict[RowRange, Any] = {}
        self._good: set[RowRange] = set()
        self._failures_of_row: dict[int, list[str]] = {}
        self._num_in_a_row, self._num_failures = 0, 0
        self._max_in_a_row = min(self._limits.max_failures_in_a_row, 2 * num_rows)
        self.rejected: dict[int, str] = {}  # row of the shard -> reason
        self.last_failed_on: Hashable = None

    @property
    def next_range(self) -> RowRange | None:
        """The range to render next; None once every row is rendered or rejected."""
        return self._waiting[0] if self._waiting else None

    @property
    def is_at_a_row(self) -> bool:
        """Whether the next range is a single row that has failed by itself, which another node should try."""
        if not self._waiting:
            return False
        return self._waiting[0].start in self._failures_of_row and self._waiting[0].num_rows == 1

    @property
    def rendered(self) -> list[Any]:
        """The results that `passed` was given, in the order of the rows."""
        return [self._rendered[rows] for rows in sorted(self._rendered)]

    @property
    def good_range(self) -> RowRange | None:
        """The narrowest range that gave images: rendering it shows whether an actor works."""
        return min(self._good, key=lambda rows: (rows.num_rows, rows.start), default=None)

    def passed(self, rows: RowRange, result: Any, *, has_images: bool = True) -> None:
        """Record that the next range was rendered. A range without images (all its rows rejected) proves nothing."""
        self._waiting.remove(rows)
        self._rendered[rows] = result
        if has_images:
            self._good.add(rows)
            self._num_in_a_row = 0

    def failed(self, rows: RowRange, reason: str, *, is_proven: bool, where: Hashable = None) -> None:
        """Record that the next range failed its actor. `is_proven`: the process had rendered other rows before.

        Raises NotTheRowsError when the bisection gives up.
        """
        self._waiting.remove(rows)
        self.last_failed_on = where
        self._num_in_a_row = 1 if is_proven else self._num_in_a_row + 1
        self._num_failures += 1
        if rows.num_rows > 1:
            self._waiting.extend(rows.halves())
        elif not self._reject(rows.start, reason, is_proven):
            self._waiting.append(rows)
        if self._waiting:
            self._check_limits(self._max_in_a_row)

    def witness_failed(self) -> None:
        """Record that a new actor failed over rows known to be good. Raises NotTheRowsError as `failed` does."""
        self._num_in_a_row += 1
        self._check_limits(self._limits.max_failures_in_a_row)

    def forget_rendered(self) -> None:
        """The rendered images were lost with their node: render them again. Rejected rows stay rejected."""
        self._waiting.extend(sorted(self._rendered))
        self._rendered.clear()
        self._good.clear()

    def _check_limits(self, max_in_a_row: int) -> None:
        if self._num_in_a_row >= max_in_a_row:
            raise NotTheRowsError(f"{self._num_in_a_row} tries in a row failed and no other row was rendered")
        if self._num_failures >= self._limits.max_failures:
            raise NotTheRowsError(f"{self._num_failures} row ranges of it failed")

    def _reject(self, row: int, reason: str, is_proven: bool) -> bool:
        """Count the failure of a row by itself; True if the row is now rejected."""
        failures = self._failures_of_row.setdefault(row, [])
        if is_proven:
            failures.append(reason)
        if len(failures) < self._limits.row_tries:
            return False
        self.rejected[row] = (
            f"failed {len(failures)} times when rendered by itself, where other prompts succeeded: {reason}"
        )
        return True
