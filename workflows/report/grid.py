"""Images side by side: a row per prompt and seed, and a column per guidance weight or per output."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from workflows.report.selection import SelectedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The labels of the columns, and each image's row and column; None for an image that is not in the grid."""

    columns: list[str]
    cells: list[tuple[int, int] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class GridRow:
    """A row as the page shows it before its script runs. `cells` are images with their positions in the selection."""

    first: SelectedImage
    cells: list[tuple[int, SelectedImage] | None]


def make_grid(columns: list[str], places: Iterable[tuple[Hashable, int] | None]) -> Grid:
    """`places` are each image's row, by any key, and its column. Rows are numbered in the order of their arrival."""
    rows: dict[Hashable, int] = {}
    cells = [None if place is None else (rows.setdefault(place[0], len(rows)), place[1]) for place in places]
    return Grid(columns=columns, cells=cells)


def sweep_grid(images: Sequence[SelectedImage], weights: Sequence[float], columns: list[str]) -> Grid:
    """A column per weight of a sweep. Images with a weight of their own are not in it."""
    column_of = {weight: column for column, weight in enumerate(weights)}

    def place(image: SelectedImage) -> tuple[Hashable, int] | None:
        row = image.row
        if image.is_extra or row["cfg_weight"] not in column_of:
            return None
        return (row["prompt_id"], row["image_index"]), column_of[row["cfg_weight"]]

    return make_grid(columns, map(place, images))


def first_rows(grid: Grid, images: Sequence[SelectedImage], num: int, *, image_index: int | None) -> list[GridRow]:
    """The first `num` rows, of the images with this index or of all."""
    rows: dict[int, GridRow] = {}
    for number, (image, cell) in enumerate(zip(images, grid.cells, strict=True)):
        if cell is None or (image_index is not None and image.row["image_index"] != image_index):
            continue
        if cell[0] not in rows:
            if len(rows) == num:
                continue
            rows[cell[0]] = GridRow(first=image, cells=[None] * len(grid.columns))
        rows[cell[0]].cells[cell[1]] = (number, image)
    return list(rows.values())
