"""The rules that choose the images of an export: conditions, the best of each prompt, pairs, a sample, and splits.

They apply in this order. What a rule removes, and in which split a prompt is, depends on the rows, the scores and the
rules alone.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from actors.errors import one_line
from workflows.export.layouts.layout import ExportError
from workflows.export.sample import uniform

_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")  # `datasets` has this rule
RESERVED = "all"  # by `datasets`, for the union of all splits
_IS_WHOLE = 1e-9  # how far the shares of all splits may be from 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A part of the dataset and its share of the prompts, from 0 to 1."""

    name: str
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The rules of an export; none of them by default.

    * `where`: conditions that an image must meet, see `workflows.row_filter`.
    * `top`, `by`: of each prompt row, the `top` images with the highest values of the column `by`.
    * `pairs`: of each prompt row, the images with the highest and the lowest value of this column, as a pair.
    * `sample`, `seed`: this many of the images or pairs that are left, chosen at random; without a seed, it is 0.
    * `splits`: named parts that together hold every prompt; none for a dataset in one part.
    """

    where: tuple[str, ...] = ()
    top: int | None = None
    by: str | None = None
    pairs: str | None = None
    sample: int | None = None
    seed: int | None = None
    splits: tuple[Split, ...] = ()

    def __post_init__(self) -> None:
        if (self.top is None) != (self.by is None):
            raise ExportError(
                f"--top N and --by COLUMN belong together, got only {'--by' if self.top is None else '--top'}"
            )

        if self.seed is not None and self.sample is None:
            raise ExportError(f"--seed is the seed of --sample N, got only --seed {self.seed}")

    @property
    def sample_seed(self) -> int:
        return self.seed or 0

    def to_dict(self) -> dict[str, Any] | None:
        """The rules that are set, as JSON has them; None without rules."""
        fields = dataclasses.asdict(self)
        fields["where"], fields["splits"] = list(self.where), {split.name: split.share for split in self.splits}
        if self.sample is not None:
            fields["seed"] = self.sample_seed
        return {name: value for name, value in fields.items() if value not in (None, [], {})} or None


NO_RULES = Rules()


def read_splits(text: str) -> tuple[Split, ...]:
    """The splits in `train=0.98,test=0.02`. Raises ExportError."""
    splits = [_read_split(item, text) for item in text.split(",")]
    names = [split.name.lower() for split in splits]  # they become folders
    if len(set(names)) != len(names):
        raise ExportError(f"--split names each split once, got {one_line(text)}")
    if RESERVED in names:
        raise ExportError(f"--split cannot name a split {RESERVED}, which means all splits to `datasets`")
    total = sum(split.share for split in splits)
    if abs(total - 1) > _IS_WHOLE:
        raise ExportError(f"the shares of --split must add up to 1, got {total:g} in {one_line(text)}")
    return tuple(splits)


def _read_split(item: str, text: str) -> Split:
    name, _, number = item.strip().partition("=")
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if not _SPLIT_NAME.fullmatch(name) or not 0 < share <= 1:
        raise ExportError(
            "--split takes names of letters, digits and _ with shares above 0, such as train=0.98,test=0.02; "
            f"got {one_line(text)}"
        )
    return Split(name=name, share=share)


def split_of(prompt: str, splits: tuple[Split, ...]) -> str | None:
    """The split of a prompt's text: the same in every export with these splits. None without splits."""
    position, stop = uniform(prompt) / 2**64, 0.0
    for split in splits:
        stop += split.share
        if position < stop:
            return split.name
    return splits[-1].name if splits else None
