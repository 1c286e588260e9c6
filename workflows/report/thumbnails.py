"""The thumbnails of a selection: small WebP copies of stored images, made in parallel."""

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

NUM_PACK_READERS = 2  # each holds a whole pack in memory
QUALITY = 66  # about 2.2 KB for a photograph of 112 pixels, 3.3 KB for one of 144


def read_thumbnails(storage: Storage, locations: Sequence[str], size: int) -> list[bytes | None]:
    """The thumbnail at each location, None if the file is missing or is not a readable image."""
    files = [location for location in locations if "#" not in location]
    packs: dict[str, list[str]] = defaultdict(list)
    for location in locations:
        if "#" in location:
            packs[location.partition("#")[0]].append(location)
    made: dict[str, bytes | None] = {}
    with ThreadPoolExecutor(NUM_PACK_READERS) as readers:
        for part in readers.map(lambda name: _from_pack(storage, name, packs[name], size), packs):
            made |= part
    with ThreadPoolExecutor(NUM_READERS) as readers:
        made |= zip(files, readers.map(lambda location: _from_file(storage, location, size), files), strict=True)
    return [made[location] for location in locations]


def make_thumbnail(data: bytes, size: int) -> bytes | None:
    """A WebP that fits into `size` x `size` pixels and is never enlarged; None if `data` is not a readable image."""
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (size, size))  # decodes a JPEG at a fraction of its size
            small = image.convert("RGB")
            small.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            small.save(buffer, "WEBP", quality=QUALITY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # pillow's errors for broken files
        return None
    return buffer.getvalue()


def _from_file(storage: Storage, location: str, size: int) -> bytes | None:
    try:
        return make_thumbnail(read_image(storage, location), size)
    except FileNotFoundError:
        return None


def _from_pack(storage: Storage, name: str, locations: Sequence[str], size: int) -> dict[str, bytes | None]:
    try:
        members = read_pack(storage, name)
    except (FileNotFoundError, DamagedFileError):
        return dict.fromkeys(locations)
    found = {location: members.get(location.partition("#")[2]) for location in locations}
    return {location: None if data is None else make_thumbnail(data, size) for location, data in found.items()}
