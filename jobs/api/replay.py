"""One image of an output, re-rendered in the process of a Python program."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actors.errors import JobFailure
from jobs.replay import changed_settings
from workflows.output.claim import Claim
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage
from workflows.verify.replay import find_image, format_of, replay_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """A re-rendered image.

    * `image`: the PIL image; `data`: the bytes of its file, in the format of the output.
    * `seed` and `changes`: the seed of the image, and the settings that differ from its manifest row.
    * `same_bytes`, `same_pixels`: whether they equal the stored image; `difference` says how they do not.
    """

    image_id: str
    image: Image
    data: bytes = field(repr=False)
    seed: int
    changes: dict[str, Any]
    same_bytes: bool
    same_pixels: bool
    difference: str

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()


def replay(storage: Storage, claim: Claim, image_id: str, sampling: dict[str, Any]) -> Replay:
    """Re-render an image from its manifest row. Raises InputError, and JobFailure if it is rejected now."""
    from PIL import Image

    with storage_errors(storage.url):
        row = find_image(storage, image_id)
    changes = changed_settings(row, storage, claim, sampling)
    with storage_errors(storage.url):
        result = replay_image(storage, row, format_of(row["image"]), changes)
    if result.data is None:
        raise JobFailure(f"{image_id}: {result.replay.difference}")
    image = Image.open(io.BytesIO(result.data))
    image.load()
    return Replay(
        image_id=image_id,
        image=image,
        data=result.data,
        seed=result.request.seed,
        changes=changes,
        same_bytes=result.replay.same_bytes,
        same_pixels=result.replay.same_pixels,
        difference=result.replay.difference,
    )
