"""A finished output is refused with exit code 1 if it is empty or has more rejected images than the user allows."""

from __future__ import annotations

from collections import Counter

import pytest

from workflows.output.acceptance import NotAcceptedError, check_accepted, read_rejection_limit
from workflows.output.tally import Tally


def tally_of(num_images: int, num_rejected: int) -> Tally:
    reasons = Counter({"prompt is empty": num_rejected} if num_rejected else {})
    return Tally(num_shards=1, num_images=num_images, num_rejected=num_rejected, reasons=reasons)


@pytest.mark.parametrize(
    ("limit", "num_images", "num_rejected"),
    [("5%", 95, 5), ("0%", 1, 0), ("100%", 0, 9), ("0.1%", 999, 1), ("3", 1, 3), ("0", 1, 0), (" 5 %", 19, 1)],
)
def test_the_limit_itself_is_accepted_and_one_more_is_not(limit: str, num_images: int, num_rejected: int) -> None:
    rejection_limit = read_rejection_limit(limit)

    check_accepted("out", tally_of(num_images, num_rejected), limit=rejection_limit, allow_empty=False)
    if limit != "100%":
        with pytest.raises(NotAcceptedError):
            check_accepted("out", tally_of(num_images, num_rejected + 1), limit=rejection_limit, allow_empty=False)


def test_the_error_has_the_counts_the_limit_and_the_folder_with_the_reasons() -> None:
    message = r"1,200 of 10,000 images were rejected \(12.0%\), --max-rejected allows 5%; out/rejected has the reasons"
    with pytest.raises(NotAcceptedError, match=message):
        check_accepted("out", tally_of(8800, 1200), limit=read_rejection_limit("5%"), allow_empty=False)


def test_without_a_limit_any_number_may_be_rejected() -> None:
    check_accepted("out", tally_of(1, 1000), limit=None, allow_empty=False)


def test_an_output_without_prompts_is_accepted_only_if_the_user_says_so() -> None:
    with pytest.raises(NotAcceptedError, match="the prompts have no rows, so out has no images; --allow-empty accepts"):
        check_accepted("out", tally_of(0, 0), limit=None, allow_empty=False)
    check_accepted("out", tally_of(0, 0), limit=read_rejection_limit("0"), allow_empty=True)


@pytest.mark.parametrize("text", ["", "%", "-1", "1.5", "101%", "-1%", "nan", "nan%", "inf", "1e999", "five", "5%%"])
def test_a_limit_that_is_neither_a_number_nor_a_percentage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number of images, such as 100, or a percentage from 0% to 100%"):
        read_rejection_limit(text)
