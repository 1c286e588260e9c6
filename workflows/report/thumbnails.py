"""Small WebP copies of stored pictures, made in parallel. Which pictures is not decided here."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from workflows.output.layouts import read_image, read_pack
from workflows.output.manifest import NUM_READERS
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

NUM_PACK_READERS = 2  # a pack is held in memory whole
QUALITY = 66  # about 2.2 KB for a photograph of 112 pixels, 3.3 KB for one of 144


def read_thumbnails(storage: Storage, places: Sequence[str], size: int) -> list[bytes | None]:
    """The thumbnail of each image by its place in the output; None where the file is gone or is no picture."""
    singles = [place for place in places if "#" not in place]
    packs: dict[str, list[str]] = defaultdict(list)
    for place in places:
        if "#" in place:
            packs[place.partition("#")[0]].append(place)
    made: dict[str, bytes | None] = {}
    with ThreadPoolExecutor(NUM_PACK_READERS) as readers:
        for part in readers.map(lambda name: _from_pack(storage, name, packs[name], size), packs):
            made |= part
    with ThreadPoolExecutor(NUM_READERS) as readers:
        made |= zip(singles, readers.map(lambda place: _from_file(storage, place, size), singles), strict=True)
    return [made[place] for place in places]


def make_thumbnail(data: bytes, size: int) -> bytes | None:
    """A WebP of at most `size` pixels each way, never enlarged; None where `data` is no picture that can be read."""
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (size, size))  # a JPEG is decoded at a fraction of its size
            small = image.convert("RGB")
            small.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            small.save(buffer, "WEBP", quality=QUALITY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what pillow raises for broken files
        return None
    return buffer.getvalue()


def _from_file(storage: Storage, place: str, size: int) -> bytes | None:
    try:
        return make_thumbnail(read_image(storage, place), size)
    except FileNotFoundError:
        return None


def _from_pack(storage: Storage, name: str, places: Sequence[str], size: int) -> dict[str, bytes | None]:
    try:
        members = read_pack(storage, name)
    except (FileNotFoundError, DamagedFileError):
        return dict.fromkeys(places)
    found = {place: members.get(place.partition("#")[2]) for place in places}
    return {place: None if data is None else make_thumbnail(data, size) for place, data in found.items()}
