"""Which commands of `on_done` are refused for a secret in them, and which are not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jobs.job_file.command_secrets import secret_in_command
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields

DATA = Path(__file__).parents[2] / "data"
SECRET = "hunter2-planted"
# One command a line, with SECRET where the secret is.
WITH_SECRETS = (DATA / "on_done_secrets.txt").read_text().splitlines()
PLAIN = (DATA / "on_done_plain.txt").read_text().splitlines()
SMALLEST = {"prompts": "prompts.parquet", "output": "renders", "model": {"checkpoint": "toy"}}


@pytest.mark.parametrize("command", WITH_SECRETS)
def test_a_command_with_a_secret_is_refused_and_not_shown(command: str) -> None:
    with pytest.raises(JobFileError, match=r"^on_done: .* is refused, because job files are copied") as refused:
        check_fields({**SMALLEST, "on_done": command.replace("SECRET", SECRET)})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("command", PLAIN)
def test_a_command_without_a_secret_is_taken(command: str) -> None:
    assert check_fields({**SMALLEST, "on_done": command}).on_done == command


@pytest.mark.parametrize(
    "command", ["", "   ", "'", '"a', "a\\", "()", "; ;", "--", "-", "=", "a | | b", "<", "é: ü", "-u"]
)
def test_odd_text_is_judged_without_an_error(command: str) -> None:
    assert secret_in_command(command) is None


def test_random_text_is_judged_without_an_error() -> None:
    chance = random.Random(0)
    pieces = [*" '\"\\$`|;&()<>=:-@/?{}[],.~%#\nabUu1", "--token", "curl ", "-u", "echo ", "key", "$env:", " set "]
    for _ in range(3000):
        secret_in_command("".join(chance.choice(pieces) for _ in range(chance.randrange(40))))


@pytest.mark.parametrize("command", [f"notify {SECRET}\0", [f"notify {SECRET}"], {"notify": SECRET}])
def test_a_command_that_is_refused_for_another_reason_is_not_shown(command: object) -> None:
    with pytest.raises(JobFileError, match=r"^on_done: ") as refused:
        check_fields({**SMALLEST, "on_done": command})
    assert SECRET not in str(refused.value)
