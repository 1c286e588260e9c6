"""The pictures of docs/tutorial.md, from the outputs of its commands: `python docs/tutorial_pictures.py RENDERS`.

The picture of the report is a screenshot of RENDERS/sweep/report.html.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import janus_batch

IMAGES = Path(__file__).parent / "images"
SCALE, GAP = 3, 6  # times as large, without blur; pixels between images


def main(renders: Path) -> None:
    sheet(janus_batch.open(renders / "first").images, 1).save(IMAGES / "tutorial-first.png")
    for name in ("sweep", "nightly"):
        sheet(janus_batch.open(renders / name).images, 4).save(IMAGES / f"tutorial-{name}.png", optimize=True)


def sheet(images: Sequence[Image.Image], num_columns: int) -> Image.Image:
    """The images in rows, in their order."""
    width, height = (SCALE * side + GAP for side in images[0].size)
    num_rows = -(-len(images) // num_columns)
    page = Image.new("RGB", (num_columns * width + GAP, num_rows * height + GAP), "#ddd")
    for number, image in enumerate(images):
        row, column = divmod(number, num_columns)
        large = image.resize((width - GAP, height - GAP), Image.Resampling.NEAREST)
        page.paste(large, (column * width + GAP, row * height + GAP))
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
