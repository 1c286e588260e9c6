"""Messages of the command line in the words of Python: arguments in place of options."""

from __future__ import annotations

import json
import re

_ARGUMENTS = {
    "--address auto": 'address="auto"',
    "--address": "address",
    "--allow-empty": "allow_empty=True",
    "--ignore-lease": 'when_held="ignore"',
    "--max-rejected": "max_rejected",
    "--wait-for-output": 'when_held="wait"',
}
_COMMAND = r"`janus-batch [^`]*`"  # stays as it is
_SETTING = r"--set (?P<quote>'?)(?P<key>[\w.]+)=(?P<value>[^`']+?)(?P=quote)(?=[`\s?]|$)"
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_PATTERN = re.compile("|".join([_COMMAND, _SETTING, *map(re.escape, _ARGUMENTS)]))


def in_python(message: str) -> str:
    """The message with arguments of `janus_batch.render` in place of options: prompt_column='Caption' for --set."""
    return _PATTERN.sub(_argument, message)


def _argument(found: re.Match[str]) -> str:
    if not found["key"]:
        return _ARGUMENTS.get(found[0], found[0])
    section, _, key = found["key"].rpartition(".")
    text = found["value"]
    value = text if _NUMBER.fullmatch(text) else repr(json.loads(text) if text.startswith('"') else text)
    return f"{section}={{{key!r}: {value}}}" if section else f"{key}={value}"
