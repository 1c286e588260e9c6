"""Paths and URLs that a user writes: one spelling for each location, and an error for a location that looks wrong.

A path that exists is taken literally, whatever characters it contains.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fsspec
from fsspec.utils import glob_translate

from actors.errors import InputError, one_line
from workflows.storage.credentials import secret_in_address

MAX_PATH_BYTES, MAX_NAME_BYTES = 4096, 255  # of the file systems of Linux and macOS
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)(.*)", re.DOTALL)
_CHAIN = re.compile(r"([A-Za-z]\w*)?::")  # as fsspec chains file systems
_VARIABLE = re.compile(r"\$\{\w+\}|\$[A-Z_][A-Z0-9_]*\b|(?:^|/)\$\w+|\$\(|`|%[A-Z_]{3,}%")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_MAGIC = re.compile(r"[*?[]")
# Where Ray unpacks an uploaded working directory: the name has a hash of all its files.
_UPLOADED = re.compile(r"^(?:file://)?/.*/working_dir_files/_ray_pkg_[0-9a-f]+(?=/|$)")

# Stores with buckets. Each alias is the same store under another scheme.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "cos", "r2"}
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}
_LOCAL, _WEB = {"file", "local"}, {"http", "https"}
_KNOWN = _BUCKETS | _WEB | {"file", "hf"}

# What an output consists of, and the files of it that prompts might select, relative to it.
JOB_FILE = "job.json"
OUTPUT_FOLDERS = ("images", "manifest", "rejected", "scores", "prompts")
_OUTPUT_FILES = (
    *("manifest/part.parquet", "rejected/part.parquet", "images/part.parquet", "images/0/part.parquet"),
    *("scores/name/part.parquet", "prompts/part.parquet", JOB_FILE),
)


class LocationError(InputError):
    """A path or URL that most likely does not mean what it says. The message has the rule and the value."""


def absolute_location(location: str, name: str = "location", *, is_written: bool = False) -> str:
    """A path or URL that means the same from every folder and on every node. Raises LocationError, naming `name`.

    Expands `~`, turns `file://` and `local://` into paths, lowers the scheme and cuts trailing slashes. `is_written`:
    files are to be written there.
    """
    try:
        check_location(location)
        if is_written:
            check_writable(location)
    except ValueError as error:
        raise LocationError(f"{name}: {error}{shown_location(location)}") from error
    path = _local_path(location)
    if path is not None:
        return re.sub("^//", "/", os.path.abspath(os.path.expanduser(path)))  # Python keeps two slashes in front
    scheme, _, rest = location.partition("://")
    return f"{scheme.lower()}://{rest}".rstrip("/")


def output_arguments(url: str, options: Mapping[str, Any]) -> str:
    """The arguments that name an output to a verb of `janus-batch`, quoted for a shell."""
    endpoint = ["--endpoint-url", options["endpoint_url"]] if options.get("endpoint_url") else []
    return shlex.join([url, *endpoint])


def check_location(location: str) -> None:
    """Raise ValueError with the rule that a path or URL breaks. The message does not contain the value."""
    if secret := secret_in_address(location):
        raise ValueError(f"{secret} is refused; credentials come from the environment")
    if not location.strip():
        raise ValueError("must not be empty")
    if location != location.strip() or not location.isprintable():
        raise ValueError("must not start or end with a space or contain line breaks and other control characters")
    path = _local_path(location)
    if path is None:
        _check_url(location)
    elif path != location and not path.startswith("/"):
        raise ValueError("a file:// URL needs an absolute path: file:///folder")
    else:
        _check_path(path)


def check_writable(location: str) -> None:
    """Raise ValueError with the rule for a URL to which no files can be written for others to read."""
    scheme = location.partition("://")[0].lower() if "://" in location else ""
    if scheme in _WEB:
        raise ValueError(f"a web server takes no files, so {scheme}:// can only be read")
    if scheme == "hf":
        raise ValueError("the hub takes no files one by one; `janus-batch export --push-to ORG/NAME` uploads a dataset")
    if scheme == "memory":
        raise ValueError("memory:// is lost with its process, and no other process can read it")


def shown_location(location: str) -> str:
    """`, got VALUE` for the end of a message; empty if the value may contain a secret."""
    return "" if secret_in_address(location) else f", got {one_line(repr(location))}"


def check_new_file(file: str, outputs: Iterable[str], name: str) -> None:
    """Check a local file that is to be written. Raises LocationError, naming `name`, if its folder does not exist, or
    if it is inside one of the outputs, whose files are never overwritten.
    """
    for output in filter(is_local, outputs):
        if f"{os.path.realpath(file)}/".startswith(f"{os.path.realpath(absolute_location(output))}/"):
            raise LocationError(f"{name}: {one_line(file)} is inside the output {output}; name a file elsewhere")
    folder = os.path.dirname(file) or "."
    if not os.path.isdir(folder):
        raise LocationError(f"{name}: there is no folder {one_line(folder)}")


def lies_among(output: str, prompts: str) -> bool:
    """Whether the prompts (a file, folder or glob) would select files of the output. Both are absolute."""
    (store, output), (other_store, prompts) = real_location(output), real_location(prompts)
    if store != other_store:
        return False
    if f"{output}/".startswith(f"{prompts.rstrip('/')}/"):
        return True
    pattern = re.compile(glob_translate(prompts)) if _MAGIC.search(prompts) else None
    return pattern is not None and any(pattern.match(f"{output}/{file}") for file in _OUTPUT_FILES)


def real_location(location: str) -> tuple[str, str]:
    """The store of an absolute location, and the path there with links resolved up to the first glob character."""
    if not is_local(location):
        scheme, _, rest = location.partition("://")
        return _ALIASES.get(scheme, scheme), rest
    magic = None if os.path.lexists(location) else _MAGIC.search(location)
    if magic is None:
        return "", os.path.realpath(location)
    folder, slash, pattern = location[: magic.start()].rpartition("/")
    return "", os.path.realpath(folder or "/").rstrip("/") + slash + pattern + location[magic.start() :]


def folders_around(location: str) -> Iterator[tuple[str, str]]:
    """Each folder that an absolute location is in, the nearest first, and the path from there to the location."""
    scheme, _, path = ("", "", os.path.realpath(location)) if is_local(location) else location.partition("://")
    parts = path.rstrip("/").split("/")
    for number in range(len(parts) - 1, 0, -1):
        if folder := "/".join(parts[:number]):
            yield f"{scheme}://{folder}" if scheme else folder, "/".join(parts[number:])


def stable_location(location: str) -> str:
    """The same text for the same location in every upload of a working directory, for comparison only."""
    return _UPLOADED.sub("working directory", location)


def is_local(url: str) -> bool:
    """Whether an absolute location is on a file system of this machine."""
    return _local_path(url) is not None


def _local_path(location: str) -> str | None:
    """The local path that a location means, None for a URL."""
    scheme, found, rest = location.partition("://")
    if found and scheme.lower() in _LOCAL:
        return rest
    return None if found and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else location


def _check_path(path: str) -> None:
    expanded = os.path.expanduser(path)
    if len(os.fsencode(expanded)) > MAX_PATH_BYTES or any(
        len(os.fsencode(part)) > MAX_NAME_BYTES for part in expanded.split("/")
    ):
        raise ValueError(f"a path has at most {MAX_PATH_BYTES:,} bytes, and a name in it {MAX_NAME_BYTES}")
    if os.path.lexists(expanded):
        return
    if expanded.startswith("~"):
        raise ValueError("no such user")
    if _VARIABLE.search(path):
        raise ValueError("variables such as $HOME and ${NAME} are not expanded; write the path itself, or ~/")
    if found := _SCHEME.match(path):
        is_text_after_colon = found[3] and not found[2]  # may be a path: memory:1
        if found[1].lower() in (_KNOWN if is_text_after_colon else fsspec.available_protocols()):
            raise ValueError(f"a URL has two slashes after its scheme: {found[1].lower()}://")
    if "://" in path:
        raise ValueError("a URL begins with its scheme; nothing can be in front of it, as in s3://bucket/folder")
    if (chain := _CHAIN.match(path)) and (not chain[1] or chain[1].lower() in fsspec.available_protocols()):
        raise ValueError("`::` (chained URLs) is not supported")
    scheme, slashes, _ = path.partition("//")
    if slashes and scheme.lower() in _KNOWN:
        raise ValueError(f"a URL has a colon after its scheme: {scheme.lower()}://")
    if os.name == "posix" and _WINDOWS.match(path):
        raise ValueError("a path of Windows is no path on this system")


def _check_url(url: str) -> None:
    scheme, _, rest = url.partition("://")
    if "::" in re.sub(r"(?<=://)\[[0-9A-Fa-f:.]+\]", "", url):  # an IPv6 address may have it
        raise ValueError("`::` (chained URLs) is not supported")
    if _VARIABLE.search(rest):
        raise ValueError("variables such as $HOME and ${NAME} are not expanded; write the URL itself")
    if scheme.lower() in _WEB:
        if not re.match(r"[^/:?#]", rest):
            raise ValueError("the URL names no host")
        return
    if "?versionId=" in rest:
        raise ValueError("a URL cannot name the version of an object")
    parts = rest.rstrip("/").split("/")
    if scheme.lower() in _BUCKETS and parts[0] in ("", ".", ".."):
        raise ValueError("the URL names no bucket")
    if not rest.strip("/"):
        example = " (a dataset is hf://datasets/ORGANIZATION/NAME)" if scheme.lower() == "hf" else ""
        raise ValueError(f"the URL names nothing after {scheme.lower()}://{example}")
    if "" in parts[1:] or {".", ".."} & set(parts[1:]):
        raise ValueError("a URL cannot have an empty part (//) or the parts . and ..")
