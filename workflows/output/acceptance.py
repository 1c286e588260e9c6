"""Whether a finished output is what the user wanted: not empty, and not rejected for the most part."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.errors import JobFailure, one_line
from workflows.output.tally import Tally

NUM_REASONS = 3  # that a message names


class NoImagesError(JobFailure):
    """Prompts asked for images and every one was rejected."""

    advice = "fix the prompts and render into another output; if the cause is gone, use `janus-batch retry-rejected`"


class NotAcceptedError(JobFailure):
    """The job is finished, and its output breaks a limit that the user has set."""

    advice = "committed images are kept"


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionLimit:
    """The most rejected images that a job may have: a number, or a percentage of all its images."""

    most: float
    is_percentage: bool

    def __str__(self) -> str:
        return f"{self.most:.12g}%" if self.is_percentage else f"{self.most:.0f}"

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


def check_any_image(output: str, tally: Tally) -> None:
    """Raise NoImagesError with the most frequent reasons if every image of the output is rejected."""
    if tally.num_rejected and not tally.num_images:
        rule = f"{output} holds no image: all {tally.num_rejected:,} that its prompts asked for were rejected"
        raise NoImagesError("\n".join([rule, *top_reasons(tally)]))


def top_reasons(tally: Tally) -> list[str]:
    """`12 x prompt is empty`, the most frequent reasons first."""
    lines = [f"{count:,} x {one_line(reason)}" for reason, count in tally.reasons.most_common(NUM_REASONS)]
    others = len(tally.reasons) - len(lines)
    words = "more reason" if others == 1 else "more reasons"
    return lines + [f"and {others:,} {words}; see the files in rejected/"] * (others > 0)
