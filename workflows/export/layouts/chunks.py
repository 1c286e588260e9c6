"""The images of a shard in chunks that are written at the same time, and their counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from workflows.export.images import ExportImage
from workflows.export.layouts.layout import Written

NUM_WRITERS = 16


def chunks_of(images: Iterator[ExportImage]) -> Iterator[list[ExportImage]]:
    """A few images for each writer."""
    while chunk := list(itertools.islice(images, 4 * NUM_WRITERS)):
        yield chunk


def chunks_of_bytes(images: Iterator[ExportImage], max_bytes: int) -> Iterator[list[ExportImage]]:
    """At most `max_bytes` of images each, but at least one image."""
    chunk: list[ExportImage] = []
    num_bytes = 0
    for image in images:
        if chunk and num_bytes + len(image.data) > max_bytes:
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(image)
        num_bytes += len(image.data)
    if chunk:
        yield chunk


def count_of(images: Sequence[ExportImage], *, num_files: int) -> Written:
    return Written(num_images=len(images), num_files=num_files, num_bytes=sum(len(image.data) for image in images))
