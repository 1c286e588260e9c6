"""docs/job-file.md says what the spec says."""

from pathlib import Path

from jobs.job_file.docs import page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_in_docs_is_the_one_the_spec_makes():
    assert (DOCS / "job-file.md").read_text(encoding="utf-8") == page()


def test_every_key_has_a_description():
    assert "| None |" not in page()
