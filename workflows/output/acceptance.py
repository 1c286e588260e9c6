"""Whether a finished output is what the user wanted: not empty, and not rejected for the most part."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.errors import JobFailure
from workflows.output.tally import Tally


class NotAcceptedError(JobFailure):
    """The job is finished, and its output breaks a limit that the user has set."""

    advice = "committed images are kept"


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionLimit:
    """The most rejected images that a job may have: a number, or a percentage of all its images."""

    most: float
    is_percentage: bool

    def __str__(self) -> str:
        return f"{self.most:g}%" if self.is_percentage else f"{self.most:,.0f}"

    def is_exceeded(self, tally: Tally) -> bool:
        if self.is_percentage:
            return tally.num_rejected * 100 > self.most * (tally.num_images + tally.num_rejected)
        return tally.num_rejected > self.most


def read_rejection_limit(text: str) -> RejectionLimit:
    """`5%` or `100`. Raises ValueError with the rule."""
    is_percentage = text.strip().endswith("%")
    try:
        most = float(text.strip().removesuffix("%"))
    except ValueError:
        most = math.nan
    is_allowed = 0 <= most <= 100 if is_percentage else most >= 0 and most.is_integer()
    if not is_allowed:
        raise ValueError("must be a number of images, such as 100, or a percentage from 0% to 100%")
    return RejectionLimit(most=most, is_percentage=is_percentage)


def check_accepted(output: str, tally: Tally, *, limit: RejectionLimit | None, allow_empty: bool) -> None:
    """Raise NotAcceptedError if the output has more rejected images than the limit, or has no prompts at all."""
    num_asked = tally.num_images + tally.num_rejected
    if not num_asked and not allow_empty:
        raise NotAcceptedError(f"the prompts have no rows, so {output} has no images; --allow-empty accepts this")
    if limit is not None and limit.is_exceeded(tally):
        raise NotAcceptedError(
            f"{tally.num_rejected:,} of {num_asked:,} images were rejected ({tally.num_rejected / num_asked:.1%}), "
            f"--max-rejected allows {limit}; {output}/rejected has the reasons"
        )
