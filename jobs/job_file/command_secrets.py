"""Find secrets in a shell command, to keep them out of job.json and logs. A variable of the shell is no secret.

The command is cut into words as a shell does. What a program takes as a password is known for common programs; others
are judged by the names of their options, variables, headers and fields.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from workflows.storage.credentials import has_form_of_a_token, is_secret_name, secret_in_address

# Programs that call a URL; a word with a host and a path is one.
_CLIENTS = {"curl", "wget", "http", "https", "xh", "xhs", "invoke-webrequest", "invoke-restmethod", "iwr", "irm"}
_HOST_AND_PATH = re.compile(r"^[\w-]+(\.[\w-]+)+(:\d+)?[/?].")
# Programs whose `-u a:b` is a user and a group, or no user at all.
_NO_LOGIN = {"docker", "podman", "nerdctl", "sudo", "doas", "sed", "awk", "perl", "python", "python3", "sort", "chroot"}
# Short options with a password, by program. Those in _ATTACHED take it without a space only.
_PASSWORD_OPTIONS = {
    **dict.fromkeys(("redis-cli", "influx"), ("-a", "-t")),
    **dict.fromkeys(("zip", "unzip", "sqlcmd", "ipmitool", "mosquitto_pub", "mosquitto_sub", "mosquitto_rr"), ("-P",)),
    **dict.fromkeys(("mongo", "mongosh", "mongodump", "mongoexport", "rabbitmqadmin", "sendxmpp", "sshpass"), ("-p",)),
    **dict.fromkeys(("ldapsearch", "ldapadd", "ldapmodify", "ldapwhoami", "bcp"), ("-w",)),
    "openssl": ("-k", "-K"),
    "swaks": ("-ap",),
    "sendemail": ("-xp",),
}
_ATTACHED = dict.fromkeys(("mysql", "mariadb", "mysqladmin", "mysqldump", "7z", "7za", "7zz", "rar"), ("-p",))
_SHELLS = {"bash", "sh", "zsh", "dash", "ksh", "ssh", "su", "eval"}  # take a command as a word
# Long options for a user and a password, a certificate and its password, or a cookie, by their short ones.
_SHORT_OF = {"user": "u", "login": "u", "proxy-user": "U", "cert": "E", "auth": "a", "cookie": "b"}
_WRAPPERS = {"env", "sudo", "doas", "nohup", "exec", "time", "export", "declare", "command", "nice", "xargs", "set"}

_VARIABLE = re.compile(r"^\s*[\"'\\]*((bearer|basic|token)\s+)?[\"'\\]*([$`@]|env\.\w|%\w|\{\w*\})", re.IGNORECASE)
_DEFAULT = re.compile(r"\$\{(\w+):?[-=](?=[^}$`])")  # ${TOKEN:-x} has a value of its own
_NAMED = re.compile(r"^(?:--?|/|\$env:|@\{)?[\"']?([A-Za-z][\w.-]*)[\"']?\s*(?::=|==|=|:)\s*(.*)$", re.DOTALL)
_IN_TEXT = re.compile(r"[\"']([A-Za-z][\w-]*)[\"']\]?\s*[:=]\s*[\"']?([^\s\"',;}]*)")  # {"token": "x"}
_FIELDS = re.compile(
    r"(?:^|[?&;,\s])([A-Za-z][\w-]*)\s*[=:]\s*((?:(?:bearer|basic|token)\s+)?[^&;,\s]*)", re.IGNORECASE
)  # ?token=x&a=b, AccountName=a;AccountKey=b, Authorization: Bearer x
_USER_AT_HOST = re.compile(r"(?:^|//)(?!(?:mailto|sip|xmpp|acct):)[\w.+%-]+:(?![$`\"])[^@\s/$]+@[\w.-]+", re.IGNORECASE)
_LOGIN = re.compile(r"^[\"']?[^\s:$]+:(?![\"']?[$`])[^\s:].*", re.DOTALL)
_IDS = re.compile(r"^\d+:\d+$")
_PIPED = re.compile(
    r"\b(?:echo|printf)\s+(?!-|[\"']?[$`])\S[^|;&]{0,500}\|[^|;&]{0,500}--(?:password-stdin|with-token|token-stdin)\b"
)
# `aws configure set NAME VALUE`, and `$env:NAME = "VALUE"` of PowerShell.
_SETS = (
    re.compile(r"\sset\s+([\w.-]+)\s+(?![\"']?[$`])(\S+)"),
    re.compile(r"\$env:(\w+)\s*=\s*[\"']?(?![$`])([^\s\"']+)"),
)

# Names that are often no secret, and values that show it: words and small numbers.
_WEAK_NAMES = {"key", "keys", "pass", "passed", "auth", "sig", "pat", "tokens", "code"}
_PLAIN_VALUE = re.compile(r"^[\"'\[({]*([a-z]{1,12}(,[a-z]{1,12})*|[A-Z]?[a-z]{1,12}|\d{1,4}|[.%-]\w?)?[\"'\])},.]*$")
_HARMLESS = {"yes", "no", "on", "off", "true", "false", "none", "null", "basic", "digest", "ntlm", "negotiate"}
_FILE = re.compile(r"^@|^[~.]?/|\.(pem|key|crt|cer|json|txt|p12|pub)$")
_FILE_OPTIONS = re.compile(r"-(file|path|jar|column|field|name|type|stdin|id|by|env|cmd|command)$")


def secret_in_command(text: str) -> str | None:
    """A description of the secret in a command, without the secret itself; None if none is found."""
    if has_form_of_a_token(text) or _PIPED.search(text) or any(map(is_secret_name, _DEFAULT.findall(text))):
        return "a value that is a secret"
    if any(_is_pair(name, value) for pattern in _SETS for name, value in pattern.findall(text)):
        return "a value that is a secret"
    if found := secret_in_address(text):
        return found
    for words in filter(None, _simple_commands(text)):
        if found := _secret_in_words(words):
            return found
    return None


def _simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without quotes: pipes, lists and substitutions separate commands."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=";&|()\n<>")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    words: list[str] = []
    try:
        for word in lexer:
            if set(word) <= set(";&|()\n"):
                yield words
                words = []
            elif not set(word) <= set("<>"):
                words.append(word)
    except ValueError:  # a quote that is not closed
        words = text.split()
    yield words


def _secret_in_words(words: list[str]) -> str | None:
    program = "sudo" if words[0] in _NO_LOGIN & _WRAPPERS else _program(words)
    following = [*words[1:], ""]
    for word, value in zip(words, following, strict=True):
        if _USER_AT_HOST.search(word):
            return "an address with a user name or password in it"
        if (program in _CLIENTS and _HOST_AND_PATH.search(word)) or (program == "apprise" and "://" in word):
            return "a URL"
        if _is_option_with_secret(program, word, value) or _has_secret_field(word):
            return "a value that is a secret"
        if program in _SHELLS and re.search(r"\s", word) and (found := secret_in_command(word)):
            return found
    if program == "vault" and words[-2:-1] == ["login"] and not words[-1].startswith(("-", "$", "`")):
        return "a value that is a secret"
    return None


def _program(words: list[str]) -> str:
    """The name of the program that is started, without its folder."""
    for word in words:
        if "=" not in word and word not in _WRAPPERS and not word.startswith("-"):
            return word.rpartition("/")[2].lower().removesuffix(".exe")
    return ""


def _is_option_with_secret(program: str, word: str, value: str) -> bool:
    """Whether a word is an option, or the name of a field, whose value is a secret: the next word or part of it."""
    if word.startswith("-"):
        return _is_password(program, word, value) or _is_login(program, word, value) or _is_long_option(word, value)
    # `setx TOKEN x`, `--arg token x`, `wifi connect name password x`
    is_name = word.lower().replace("-", "_") in ("token", "password", "passwd", "passphrase", "api_key", "apikey")
    return is_name and _is_literal(value) and not _PLAIN_VALUE.match(value) and not value.startswith("-")


def _is_long_option(word: str, value: str) -> bool:
    """`--token x` and `-token x`; `--token=x` is a field."""
    name = word.lstrip("-")
    if len(name) < 2 or not re.fullmatch(r"[\w.-]+", name) or (word[1] != "-" and len(name) < 4):
        return False
    if _FILE_OPTIONS.search(name) or value.startswith("-"):
        return False
    return _is_pair(name, value) or (name in ("oauth2-bearer", "pass") and _is_literal(value))


def _is_password(program: str, word: str, value: str) -> bool:
    for option in _PASSWORD_OPTIONS.get(program, ()):
        attached = word.removeprefix(option).lstrip("=") if word.startswith(option) else ""
        if _is_literal(attached) or (word == option and _is_literal(value) and not value.startswith("-")):
            return True
    for option in _ATTACHED.get(program, ()):
        if word.startswith(option) and _is_literal(word.removeprefix(option)):
            return True
    is_login = program in ("docker", "podman", "az", "helm", "oc", "cf", "nerdctl", "skopeo", "buildah")
    return is_login and re.match(r"-p(=|$)", word) is not None and _is_literal(word[3:] or _not_ports(value))


def _not_ports(value: str) -> str:
    return "" if re.match(r"^[\d.:]+(/\w+)?$", value) else value


def _is_login(program: str, word: str, value: str) -> bool:
    """`-u name:x`, `--user=name:x`, `-b name=x`, `-U name%x` and `-u name,x`."""
    written, sign, attached = word.partition("=")
    short = re.match(r"-[a-zA-Z]*?([uUbE])(.*)$" if program == "curl" else r"-([uUa])(.*)$", word, re.DOTALL)
    if word.startswith("--"):
        option, value = _SHORT_OF.get(written[2:], ""), attached if sign else value
    else:
        option, value = (short[1], short[2] or value) if short else ("", "")
    if not option or not _is_literal(value) or _IDS.match(value) or program in _NO_LOGIN:
        return False
    if option == "b":
        _, sign, rest = value.partition("=")
        return bool(sign) and program in _CLIENTS and _is_literal(rest)
    if option == "a":
        return program in _CLIENTS and not value.endswith(":")
    if program in ("smbclient", "lftp"):
        return re.search(r"[%,](?![$`])\S", value) is not None
    return _LOGIN.match(value) is not None


def _has_secret_field(word: str) -> bool:
    """Whether a word sets a field of a secret name: NAME=x, NAME==x, `NAME: x`, --NAME=x, -HNAME:x, {"NAME": "x"}."""
    text = re.sub(r"^(-H|-?-header=|-?-data(-\w+)?=|-[dF])", "", word)
    if (match := _NAMED.match(text)) and not _FILE_OPTIONS.search(match[1]) and _is_pair(match[1], match[2]):
        return True
    if match and match[1] == "user" and not word.startswith("-") and _LOGIN.match(match[2]):  # curl -K
        return True
    if match and match[1] == "from-literal" and _is_literal(match[2].partition("=")[2]):
        return True
    pairs = [*_IN_TEXT.findall(text), *_FIELDS.findall(text)]
    if match:  # a field in a field: --header=Authorization:x
        pairs += _FIELDS.findall(match[2])
    return any(_is_pair(name, value) for name, value in pairs)


def _is_pair(name: str, value: str) -> bool:
    """Whether a field of this name with this value is a secret."""
    plain = value.strip("\"' \\\t\r\n")
    if not plain or not is_secret_name(name) or not _is_literal(value) or plain.lower() in _HARMLESS:
        return False
    return not (_is_weak(name) and (_PLAIN_VALUE.match(plain.split()[0]) or _FILE.search(plain)))


def _is_weak(name: str) -> bool:
    """Whether a name may also be that of no secret: `sort_key` and `pass`, but not `secret_key`."""
    words = re.findall(r"[a-z]+", name.lower())
    others = [word for word in words if word not in _WEAK_NAMES - {"key", "keys"}]
    return not words or (words[-1] in _WEAK_NAMES and not is_secret_name("_".join([*others, "id"])))


def _is_literal(value: str) -> bool:
    """Whether a value is written out: not empty, and neither a variable nor a command of the shell."""
    return bool(value.strip("\"' ")) and not _VARIABLE.match(value)
