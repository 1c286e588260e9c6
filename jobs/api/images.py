"""The images of an output as a sequence of PIL images, each read when it is asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import overload

from PIL import Image

from jobs.api.arguments import position_of
from workflows.output.layouts import read_pack
from workflows.storage.damage import DamagedFileError
from workflows.storage.errors import storage_errors
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage


class Images(Sequence[Image.Image]):
    """The images at these locations. Of the webdataset and parquet layouts, the last pack stays in memory."""

    def __init__(self, storage: Storage, locations: Sequence[str]) -> None:
        self._storage, self._locations = storage, locations
        self._pack: tuple[str, dict[str, bytes]] = "", {}

    def __len__(self) -> int:
        return len(self._locations)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self._open(location) for location in self._locations[index]]
        return self._open(self._locations[position_of(index, len(self))])

    def __iter__(self) -> Iterator[Image.Image]:
        return map(self._open, self._locations)

    def file(self, index: int) -> bytes:
        """The bytes of an image file. Raises DamagedFileError if it is missing, and StorageError."""
        return self._read(self._locations[position_of(index, len(self))])

    def _open(self, location: str) -> Image.Image:
        data = self._read(location)
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except (OSError, SyntaxError) as error:  # pillow's errors for broken files
            raise self._damage(location, "is not a readable image") from error
        return image

    def _read(self, location: str) -> bytes:
        name, _, member = location.partition("#")
        with storage_errors(self._storage.url):
            try:
                if not member:
                    return self._storage.read(name)
                if self._pack[0] != name:
                    self._pack = name, read_pack(self._storage, name)
                return self._pack[1][member]
            except (FileNotFoundError, KeyError):
                raise self._damage(location, "is missing") from None

    def _damage(self, location: str, fault: str) -> DamagedFileError:
        repair = f"janus-batch verify {output_arguments(self._storage.url, self._storage.options)} --repair"
        return DamagedFileError(
            f"{self._storage.url}/{location} {fault}; `{repair}` takes it back, and the next run re-renders it"
        )
