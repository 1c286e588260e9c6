"""Reads the image files of committed rows and checks them against their SHA-256, for exports and scorers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from workflows.output.layouts import read_pack
from workflows.storage.damage import DamagedFileError
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage


class ImageFiles:
    """Reads image files, several at a time, and packs, of which it keeps those of its shard."""

    def __init__(self, source: Storage, threads: ThreadPoolExecutor) -> None:
        self._source, self._threads = source, threads
        self._packs: dict[str, dict[str, bytes]] = {}

    def read(self, locations: Sequence[str], hashes: Sequence[str]) -> list[bytes]:
        """The files at these locations of the manifest, in their order.

        Raises DamagedFileError naming an image that is missing or whose bytes differ from its hash.
        """
        files = {one: self._threads.submit(self._read_file, one) for one in locations if "#" not in one}
        found = [files[one].result() if one in files else self._read_member(one) for one in locations]
        return [self._check(*image) for image in zip(locations, found, hashes, strict=True)]

    def _read_file(self, location: str) -> bytes | None:
        try:
            return self._source.read(location)
        except FileNotFoundError:
            return None

    def _read_member(self, location: str) -> bytes | None:
        name, _, member = location.partition("#")
        if name not in self._packs:
            try:
                self._packs[name] = read_pack(self._source, name)
            except FileNotFoundError:
                self._packs[name] = {}
        return self._packs[name].get(member)

    def _check(self, location: str, data: bytes | None, sha256: str) -> bytes:
        if data is not None and hashlib.sha256(data).hexdigest() == sha256:
            return data
        fault = "is missing" if data is None else "differs from the SHA-256 in its manifest row"
        repair = f"janus-batch verify {output_arguments(self._source.url, self._source.options)} --repair"
        raise DamagedFileError(
            f"{self._source.url}/{location} {fault}. `{repair}` takes it back, and the next "
            "`janus-batch render` re-renders it"
        )
