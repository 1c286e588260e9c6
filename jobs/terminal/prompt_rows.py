"""The rows of the prompt files as `plan` shows them: empty lines, selected rows, and duplicates."""

from __future__ import annotations

from typing import Any

from workflows.job import PromptReading
from workflows.plan import Plan
from workflows.prompts import MAX_ROWS_TO_COMPARE


def prompt_facts(plan: Plan, num_duplicates: int | None) -> dict[str, Any]:
    """For programs. `num_duplicates` is None if the prompts are too many to compare, and `num_rows_in_files` if the
    files were read up to the last row that a limit asks for.
    """
    return {
        "num_files": len(plan.files),
        "num_bytes_of_prompts": sum(file.num_bytes for file in plan.files),
        "num_empty_lines": sum(file.num_skipped for file in plan.files),
        "num_rows_in_files": plan.num_rows_in_files,
        "num_rows": plan.num_rows,
        "num_duplicates": num_duplicates,
        "num_rows_committed": plan.num_rows_committed,
    }


def prompt_rows(facts: dict[str, Any], reading: PromptReading) -> dict[str, str]:
    """For people. Rows of a table about which there is nothing to say are left out."""
    rows = {"prompt files": f"{facts['num_files']:,} ({facts['num_bytes_of_prompts']:,} bytes)"}
    if facts["num_empty_lines"]:
        rows["empty lines"] = f"{facts['num_empty_lines']:,}, which are skipped"
    if facts["num_rows_in_files"] is None:
        rows["rows"] = f"the first {facts['num_rows']:,}; no others are read"
    elif reading.selects_rows:
        rows["rows"] = f"{facts['num_rows_in_files']:,}, of which {facts['num_rows']:,} are selected"
    rows["prompts"] = f"{facts['num_rows']:,}, of which {facts['num_rows_committed']:,} are done"
    if facts["num_duplicates"] is None:
        rows["duplicates"] = f"not counted: there are more than {MAX_ROWS_TO_COMPARE:,} prompts"
    elif facts["num_duplicates"]:
        rows["duplicates"] = (
            f"{facts['num_duplicates']:,} prompts repeat an earlier one; deduplicate: true leaves them out"
        )
    return rows
