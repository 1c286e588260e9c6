"""Finds secrets in names, values and URLs, so that none is written into job.json, a log or the report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

# A name is secret if one of these is among its words, however it is spelled: sasToken, SAS-TOKEN, sas_token ...
SECRET_WORDS = {"authorization", "bearer", "cookie", "cookies", "credential", "credentials", "passphrase", "passwd"}
SECRET_WORDS |= {"password", "pwd", "sas", "secret", "secrets", "token", "tokens"}
# ... or is its last word: `auth`, but not `auth_type`; `sse_customer_key`, but not `sse_kms_key_id` ...
LAST_WORDS = {"auth", "authentication", "key", "keys", "sig", "signature"}
# ... or if its letters hold one of these.
SECRET_PARTS = (
    *("accesskey", "accountkey", "apikey", "authtoken", "connectionstring", "credential", "passwd", "password"),
    *("sastoken", "secret", "securitytoken"),
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_INFO = re.compile(r":/+[^/?#\s]*@")
_PARAMETER = re.compile(r"[?&#;]([^=&#;?\s]+)=")
_SECRET_VALUE = re.compile(r"^\s*(bearer|basic)\s+\S|\b(AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN ", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether an option or a parameter of this name holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    joined = "".join(words)
    return (
        not SECRET_WORDS.isdisjoint(words)
        or not LAST_WORDS.isdisjoint(words[-1:])
        or any(part in joined for part in SECRET_PARTS)
    )


def secret_in_address(text: str) -> str | None:
    """The part of an address that holds a secret, in words that do not repeat it; None if nothing does."""
    for plain in (text, unquote(text)):
        if _USER_INFO.search(plain):
            return "an address with a user name or password in it"
        if "://" in plain and any(is_secret_name(name) for name in _PARAMETER.findall(plain)):
            return "an address with a signature, key or token in its query"
    return None


def secret_in(value: Any) -> str | None:
    """What is secret anywhere in nested sections and lists, in words that do not repeat it; None if nothing is."""
    for name, text in _leaves(value):
        if name is not None and is_secret_name(name):
            return f"`{name}`"
        if _SECRET_VALUE.search(text):
            return "a value that is a secret"
        if found := secret_in_address(text):
            return found
    return None


def _leaves(value: Any) -> Iterator[tuple[str | None, str]]:
    """Every key of nested sections and lists, and every value that is text."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name), str(name)
            yield from _leaves(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield None, value
