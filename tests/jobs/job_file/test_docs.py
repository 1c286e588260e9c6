"""docs/job-file.md matches the spec."""

from pathlib import Path

from jobs.job_file.docs import page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_in_docs_is_up_to_date():
    assert (DOCS / "job-file.md").read_text(encoding="utf-8") == page()


def test_every_key_has_a_description():
    assert "| None |" not in page()
