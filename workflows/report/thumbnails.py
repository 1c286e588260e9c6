"""The thumbnails of a selection, made in parallel: WebP copies of images, and PNGs with every pixel of small ones."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from workflows.output.layouts import read_image, read_pack
from workflows.output.manifest import NUM_READERS
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

NUM_PACK_READERS = 2  # each holds a whole pack in memory
QUALITY = 66  # about 2.2 KB for a photograph of 112 pixels, 3.3 KB for one of 144
SMALL = 128  # images with fewer pixels per side are enlarged in a page, where every loss shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What thumbnails are like: at most `size` pixels per side, and whether small images keep every pixel."""

    size: int
    is_lossless: bool


def read_thumbnails(storage: Storage, sha256_of: Mapping[str, str], form: Form) -> dict[str, bytes | None]:
    """The thumbnail at each location, None if the file is missing, not a readable image or not the one of this hash."""
    files = [location for location in sha256_of if "#" not in location]
    packs: dict[str, list[str]] = defaultdict(list)
    for location in sha256_of:
        if "#" in location:
            packs[location.partition("#")[0]].append(location)

    def of_file(location: str) -> bytes | None:
        try:
            return _checked(read_image(storage, location), sha256_of[location], form)
        except FileNotFoundError:
            return None

    def of_pack(name: str) -> dict[str, bytes | None]:
        try:
            members = read_pack(storage, name)
        except (FileNotFoundError, DamagedFileError):
            return dict.fromkeys(packs[name])
        found = {location: members.get(location.partition("#")[2]) for location in packs[name]}
        return {
            place: None if data is None else _checked(data, sha256_of[place], form) for place, data in found.items()
        }

    made: dict[str, bytes | None] = {}
    with ThreadPoolExecutor(NUM_PACK_READERS) as readers:
        for part in readers.map(of_pack, packs):
            made |= part
    with ThreadPoolExecutor(NUM_READERS) as readers:
        made |= zip(files, readers.map(of_file, files), strict=True)
    return made


def _checked(data: bytes, sha256: str, form: Form) -> bytes | None:
    return make_thumbnail(data, form) if hashlib.sha256(data).hexdigest() == sha256 else None


def make_thumbnail(data: bytes, form: Form) -> bytes | None:
    """A WebP that fits into the form's size and is never enlarged, or a PNG with every pixel of a small image; None if
    `data` is not a readable image."""
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            if form.is_lossless and max(image.size) < SMALL:
                image.convert("RGB").save(buffer, "PNG")
                return buffer.getvalue()
            image.draft("RGB", (form.size, form.size))  # decodes a JPEG at a fraction of its size
            small = image.convert("RGB")
            small.thumbnail((form.size, form.size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            small.save(buffer, "WEBP", quality=QUALITY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # pillow's errors for broken files
        return None
    return buffer.getvalue()
