"""Parquet files that a job derives from its prompt files: converted rows, and numbers of selected rows.

An output keeps them in `prompts/`. A file is named after the content that it was made from, is written whole, and never
changes. So a run that finds one uses it, and a run that was interrupted makes it again. Until a run has claimed its
output, and in commands that write nothing, the files are drafts on the disk of this machine.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import os
import tempfile
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage

FOLDER = "prompts"  # of an output


class KeptFiles:
    """The derived files of one output; drafts only, if it is None. `options` are those of its storage.

    `say` is told what is made, which may take minutes.
    """

    def __init__(
        self, output: str | None, options: dict[str, Any], say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._output, self._options, self._say = output, options, say

    def find_or_make(self, name: str, make: Callable[[str], None], step: str) -> str:
        """The URL of the derived file: in the output, or a draft, which `make` writes to a local path.

        `step` tells in words what it does; empty if that takes no time.
        """

        def make_named(target: str) -> str:
            make(target)
            return name

        if name in self.names:
            return f"{self._storage.url}/{FOLDER}/{name}"
        draft = f"{_drafts()}/{name}"
        return draft if os.path.exists(draft) else self.make(make_named, step)

    def find(self, pattern: str) -> Iterator[str]:
        """The URLs of derived files whose names match a pattern of a shell: those in the output, then the drafts that
        were there at the first call.
        """
        for name in _matching(self._sorted_names, pattern):
            yield f"{self._storage.url}/{FOLDER}/{name}"
        for name in _matching(self._sorted_drafts, pattern):
            yield f"{_drafts()}/{name}"

    def make(self, make: Callable[[str], str], step: str) -> str:
        """The URL of a new draft: `make` writes a local file and returns the name that it gets."""
        if step:
            self._say(f"{step} ...")
        partial = f"{_drafts()}/{uuid.uuid4().hex}"
        try:
            draft = f"{_drafts()}/{make(partial)}"
            os.replace(partial, draft)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
        return draft

    def keep(self, url: str) -> str:
        """Move a draft into the output; its URL there. Any other URL is returned as it is."""
        folder, _, name = url.rpartition("/")
        if not url or folder != _drafts():
            return url
        with storage_errors(self._storage.url):
            self._storage.put_new(f"{FOLDER}/{name}", url)
        with contextlib.suppress(FileNotFoundError):  # the file of another prompt file
            os.unlink(url)
        return f"{self._storage.url}/{FOLDER}/{name}"

    @functools.cached_property
    def names(self) -> set[str]:
        """The files that the output has already."""
        if self._output is None:
            return set()
        with storage_errors(self._output):
            return set(self._storage.names(FOLDER))

    @functools.cached_property
    def _sorted_names(self) -> list[str]:
        return sorted(self.names)

    @functools.cached_property
    def _sorted_drafts(self) -> list[str]:
        return sorted(os.listdir(_drafts()))

    @functools.cached_property
    def _storage(self) -> Storage:
        assert self._output is not None, "drafts are kept in an output"
        return Storage(self._output, self._options, is_first_contact=True)


def _matching(names: list[str], pattern: str) -> list[str]:
    """Those of the sorted names that match. Looks only at names that begin as the pattern does: there may be one call
    for each of thousands of files."""
    beginning = pattern.partition("*")[0]
    first = bisect_left(names, beginning)
    last = bisect_right(names, beginning, lo=first, key=lambda name: name[: len(beginning)])
    return fnmatch.filter(names[first:last], pattern)


def _drafts() -> str:
    """This process's folder of drafts, removed when it ends."""
    return _draft_folder(os.getpid()).name


@functools.cache
def _draft_folder(_process: int) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="janus-batch-prompts-")
