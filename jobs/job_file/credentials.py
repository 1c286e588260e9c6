"""Secrets have no place in a job file: they would end up in job.json, in logs and in the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticCustomError

from workflows.storage.store import SECRET_OPTIONS

# Parts of option names that mean a secret, in whatever spelling; the fault's type keeps the value out of the message.
SECRET_WORDS = ("secret", "password", "access_key", "token", "credential", "account_key")
SECRET_FAULT = "secret"
SIGNATURE_WORDS = ("signature=", "sig=", "token=", "credential=")  # of presigned URLs


def check_storage_options(options: dict[str, Any]) -> None:
    """Raise a secret fault for an option that holds a secret."""
    for key, option in _items_of(options):
        if key in SECRET_OPTIONS or any(word in key.lower() for word in SECRET_WORDS):
            raise _secret_error(f"`{key}` would put a secret into the job file")
        if isinstance(option, str):
            check_address(option)


def check_address(address: str) -> str:
    """The address, unless it carries a user name or password, which would stand in job.json and every log."""
    if "://" in address and "@" in address.split("://", 1)[1].split("/", 1)[0]:
        raise _secret_error("an address with a user name or password in it is refused")
    if "://" in address and any(word in address.partition("?")[2].lower() for word in SIGNATURE_WORDS):
        raise _secret_error("an address with a signature or token in its query is refused")
    return address


def _secret_error(rule: str) -> PydanticCustomError:
    return PydanticCustomError(SECRET_FAULT, "{rule}; credentials come from the environment", {"rule": rule})


def _items_of(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested dictionaries."""
    for key, inner in value.items():
        yield str(key), inner
        if isinstance(inner, dict):
            yield from _items_of(inner)
