"""The error of a wrong job file."""

from __future__ import annotations

from actors.errors import InputError


class JobFileError(InputError):
    """The job file or a `--set` is wrong: section, key, rule, value and what is allowed."""
