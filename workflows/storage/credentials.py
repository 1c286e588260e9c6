"""Find secrets in option names, values and URLs, to keep them out of job.json, logs and the report."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

# A name is secret if it contains one of these words, in any spelling: sasToken, SAS-TOKEN, sas_token,
SECRET_WORDS = {"authorization", "bearer", "cookie", "cookies", "credential", "credentials", "passphrase", "passwd"}
SECRET_WORDS |= {"otp", "pass", "password", "pat", "pw", "pwd", "sas", "secret", "secrets", "token", "tokens"}
SECRET_WORDS |= {"webhook"}
# or ends with one of these: `auth`, but not `auth_type`; `sse_customer_key`, but not `sse_kms_key_id`,
LAST_WORDS = {"auth", "authentication", "key", "keys", "sig", "signature"}
# or contains one of these after everything but letters and digits is removed.
SECRET_PARTS = (
    *("accesskey", "accountkey", "apikey", "authheader", "authkey", "authtoken", "connectionstring", "credential"),
    *("passwd", "password"),
    *("sastoken", "secret", "securitytoken"),
)

# Values that are no secret, whatever they are an option of: how gcsfs signs in, for one.
_HARMLESS = {"", "anon", "browser", "cache", "cloud", "google_default"}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_INFO = re.compile(r":/+[^/?#\s]*@")
_PARAMETER = re.compile(r"[?&#;]([^=&#;?\s]+)=")
# Parameters of an address that sign someone in, next to those of a secret name.
_SIGN_IN = {"code", "jsessionid", "phpsessid", "session", "sessionid", "sid"}
_SECRET_VALUE = re.compile(
    r"^\s*(bearer|basic)\s+\S|\b(AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN "
    # Tokens by their form: JSON web tokens, GitHub, GitLab, Hugging Face, OpenAI and Stripe, Google, Slack, Telegram.
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.|\bgh[opsur]_\w{30,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20}|\bhf_\w{30,}"
    r"|\bsk[-_][\w-]{20,}|\bAIza[\w-]{35}|\bxox[abeoprs]-[\w-]{8,}|\b\d{6,}:AA[\w-]{30,}",
    re.IGNORECASE,
)
# A variable or a command of the shell is no secret, nor is one of the environment in jq.
_OF_THE_SHELL = r"(?!\s*[\"']?(?:(?:bearer|basic|token)\s+)?[\"']?(?:[$`]|env\.\w))"
# As in `Authorization: x`, `AccountName=a;AccountKey=b` and `{"token": "x"}`;
_ASSIGNED = re.compile(rf"(?:^|[;,&\s{{\"']|\$env:)([\w-]+)[\"']?\s*[:=]{_OF_THE_SHELL}\s*(?=[^\s:=])", re.IGNORECASE)
# as in `--token x`, but not `--token-file x`;
_OPTION = re.compile(rf"(?:^|\s)--([\w-]+)(?<!-file)(?<!-path)(?<!-jar)\s+{_OF_THE_SHELL}[^\s-]", re.IGNORECASE)
# as in `config set token x`;
_SET = re.compile(rf"\sset\s+([\w.-]+)\s+{_OF_THE_SHELL}[^\s-]", re.IGNORECASE)
# and as in `curl -u name:x`, `docker login -p x` and `sshpass -p x`, but not `docker run -u 1000:1000`.
_LOGIN = re.compile(
    r"(?:^|\s)-(?:u|-user)[\s=]*(?![\"']?\$|\d+:\d+(?:\s|$))[^\s:]+:(?!\$)\S|\bsshpass\s+-p\s*(?![\"']?\$)\S"
    r"|\blogin\s[^|;&]*-p\s+(?![\"']?[$`])\S"
)


def is_secret_name(name: str) -> bool:
    """Whether an option or URL parameter of this name is a secret."""
    words = [word.lower() for word in _WORD.findall(unicodedata.normalize("NFKC", name))]
    joined = "".join(words)
    return (
        not SECRET_WORDS.isdisjoint(words)
        or not LAST_WORDS.isdisjoint(words[-1:])
        or any(part in joined for part in SECRET_PARTS)
    )


def secret_in_address(text: str) -> str | None:
    """A description of the secret in an address, without the secret itself; None if there is none."""
    for plain in (text, unquote(text)):
        if _USER_INFO.search(plain):
            return "an address with a user name or password in it"
        names = _PARAMETER.findall(plain) if "://" in plain else []
        if any(is_secret_name(name) or name.lower() in _SIGN_IN for name in names):
            return "an address with a signature, key or token in its query"
    return None


def has_form_of_a_token(text: str) -> bool:
    """Whether a text has a secret that is known by its form, whatever it is called."""
    return _SECRET_VALUE.search(text) is not None


def secret_in(value: Any) -> str | None:
    """Like `secret_in_address`, for all names and values of nested sections and lists."""
    for name, text in _leaves(value):
        if name is not None and is_secret_name(name):
            return f"`{name}`"
        named = [*_ASSIGNED.findall(text), *_OPTION.findall(text), *_SET.findall(text)]
        if _SECRET_VALUE.search(text) or _LOGIN.search(text) or any(map(is_secret_name, named)):
            return "a value that is a secret"
        if found := secret_in_address(text):
            return found
    return None


def _leaves(value: Any) -> Iterator[tuple[str | None, str]]:
    """Every key of nested sections and lists, and every text value; no key whose value is harmless."""
    if isinstance(value, dict):
        for name, inner in value.items():
            is_harmless = inner is None or isinstance(inner, bool) or (isinstance(inner, str) and inner in _HARMLESS)
            yield None if is_harmless else str(name), str(name)
            yield from _leaves(inner)
    elif isinstance(value, list | tuple | set):
        if len(value) == 2 and all(isinstance(inner, str) for inner in value):  # a header as a pair
            yield (pair := list(value))[0], pair[0]
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield None, value
