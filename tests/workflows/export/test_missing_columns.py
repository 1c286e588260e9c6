"""A rule about a column that an output lacks is refused with the columns that it has and what makes the missing one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from actors.errors import InputError
from tests.support.command_line import Command
from tests.support.exports import export, finished_with
from workflows.export.rules import Rules


@pytest.mark.parametrize("option", ["--where", "--by", "--pairs"])
@pytest.mark.parametrize(
    ("column", "advice"),
    [
        ("judge", r"`janus-batch score \S+ --scorer judge` makes the column judge"),
        ("Judge", r"`janus-batch score \S+ --scorer judge` makes the column judge"),
        ("judg", r"`janus-batch score \S+ --scorer judge` makes the column judge"),
        ("clip", r"`janus-batch score \S+ --scorer clip --checkpoint NAME` makes the column clip"),
        ("clip.similarity", r"`janus-batch score \S+ --scorer clip --checkpoint NAME` makes the column clip"),
        ("aesthetic", r"`janus-batch score \S+ --scorer aesthetic --checkpoint NAME --head FILE` makes the column"),
        ("judge_score", r"the judge of a job writes it, and `janus-batch score \S+ --scorer judge` gives finished"),
        ("entrpy", r"did you mean entropy\?"),
        ("my_own", r"`janus-batch score \S+ --scorer judge` adds scores, .* duplicates and FILE.py:function"),
    ],
)
def test_a_missing_column_is_refused_with_what_makes_it(tmp_path: Path, option: str, column: str, advice: str) -> None:
    job = finished_with(tmp_path, {"id": ["a"]})
    rules = {
        "--where": Rules(where=(f"{column} > 0.5",)),
        "--by": Rules(top=1, by=column),
        "--pairs": Rules(pairs=column),
    }

    with pytest.raises(
        InputError, match=rf"^{option}.*{re.escape(column.partition('.')[0])}.*; {advice}.*; the"
    ) as refused:
        export(job, tmp_path / "ds", "parquet", rules=rules[option])
    assert str(refused.value).endswith("device, created_at" if option == "--where" else "clipped_fraction, entropy")


def test_the_advised_command_makes_the_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, monkeypatch, capsys)
    job = finished_with(tmp_path, {"id": ["a", "b"]})
    words = [
        "export",
        job.output,
        str(tmp_path / "ds"),
        "--layout",
        "parquet",
        "--where",
        "duplicates.duplicate_of is null",
    ]
    code, _, refusal = command(*words)
    assert code == 2

    (advised,) = re.findall(r"`janus-batch ([^`]+)`", refusal)

    assert command(*shlex.split(advised))[0] == 0
    assert command(*words)[0] == 0
