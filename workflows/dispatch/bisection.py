"""Which rows of a shard end the actors that render it: found by halving, row ranges rendered alone. Knows no Ray.

A row is condemned when it failed `ROW_TRIES` times by itself, each time on a fresh process that had just rendered other
rows of the job. A fault of the cluster (a bad node, a lost GPU) fails those other rows too, condemns nobody and soon
gives the shard up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

ROW_TRIES = 2  # of a row by itself
MAX_FAILURES_IN_A_ROW = 8  # without a range that was rendered: then it is not the rows
MAX_FAILURES = 64  # in one shard: about eight poisonous rows


class NotTheRowsError(RuntimeError):
    """Halving found no end: too many ranges failed for the fault to be a row's."""


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


class Halving:
    """One shard's ranges: those still to be rendered, what was rendered, and the rows that are condemned.

    The widest ranges come first, so that good halves are known before the search goes deeper.
    """

    def __init__(self, num_rows: int) -> None:
        whole = RowRange(start=0, stop=num_rows)
        self._waiting = deque([whole] if num_rows == 1 else whole.halves())
        self._rendered: dict[RowRange, Any] = {}
        self._good: set[RowRange] = set()
        self._strikes: dict[int, list[str]] = {}
        self._num_in_a_row, self._num_failures = 0, 0
        self._max_in_a_row = min(MAX_FAILURES_IN_A_ROW, 2 * num_rows)
        self.condemned: dict[int, str] = {}  # row of the shard -> reason
        self.last_failed_on: Hashable = None

    @property
    def next_range(self) -> RowRange | None:
        """What to render next; None when every row is rendered or condemned."""
        return self._waiting[0] if self._waiting else None

    @property
    def is_at_a_row(self) -> bool:
        """Whether the next range is a single row that failed by itself before: better tried on another node."""
        return bool(self._waiting) and self._waiting[0].start in self._strikes and self._waiting[0].num_rows == 1

    @property
    def rendered(self) -> list[Any]:
        """What `passed` was given, in the order of the rows."""
        return [self._rendered[rows] for rows in sorted(self._rendered)]

    @property
    def good_range(self) -> RowRange | None:
        """A range that images were made of, the narrowest: its rows tell whether an actor works."""
        return min(self._good, key=lambda rows: (rows.num_rows, rows.start), default=None)

    def passed(self, rows: RowRange, result: Any, *, has_images: bool = True) -> None:
        """The next range was rendered; without images (its rows were rejected as they were read) it shows nothing."""
        self._waiting.remove(rows)
        self._rendered[rows] = result
        if has_images:
            self._good.add(rows)
            self._num_in_a_row = 0

    def failed(self, rows: RowRange, reason: str, *, is_proven: bool, where: Hashable = None) -> None:
        """The next range ended its actor. `is_proven`: the same process had rendered other rows of the job before.

        Raises NotTheRowsError when the search is given up.
        """
        self._waiting.remove(rows)
        self.last_failed_on = where
        self._num_in_a_row = 1 if is_proven else self._num_in_a_row + 1
        self._num_failures += 1
        if rows.num_rows > 1:
            self._waiting.extend(rows.halves())
        elif not self._is_condemned(rows.start, reason, is_proven):
            self._waiting.append(rows)
        if self._waiting:
            self._check_limits(self._max_in_a_row)

    def witness_failed(self) -> None:
        """A fresh actor ended over rows that are known to be good. Raises NotTheRowsError as `failed` does."""
        self._num_in_a_row += 1
        self._check_limits(MAX_FAILURES_IN_A_ROW)

    def _check_limits(self, max_in_a_row: int) -> None:
        if self._num_in_a_row >= max_in_a_row:
            raise NotTheRowsError(f"{self._num_in_a_row} tries in a row failed and no other row was rendered")
        if self._num_failures >= MAX_FAILURES:
            raise NotTheRowsError(f"{self._num_failures} row ranges of it failed")

    def forget_rendered(self) -> None:
        """What was rendered was lost with its node: render it again. The condemned rows stay condemned."""
        self._waiting.extend(sorted(self._rendered))
        self._rendered.clear()
        self._good.clear()

    def _is_condemned(self, row: int, reason: str, is_proven: bool) -> bool:
        strikes = self._strikes.setdefault(row, [])
        if is_proven:
            strikes.append(reason)
        if len(strikes) < ROW_TRIES:
            return False
        self.condemned[row] = (
            f"ended its actor {len(strikes)} times, by itself, where other prompts were fine: {reason}"
        )
        return True
