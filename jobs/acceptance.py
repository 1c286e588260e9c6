"""What the output of a run has to be, as the options of a run that another process starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflows.output.acceptance import RejectionLimit


def acceptance_options(max_rejected: RejectionLimit | None, *, allow_empty: bool) -> list[str]:
    """The options of `render` and `submit` for these limits; none if there are none."""
    limit = [] if max_rejected is None else ["--max-rejected", str(max_rejected)]
    return limit + ["--allow-empty"] * allow_empty
