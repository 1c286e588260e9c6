"""An independent judge of images: pixel rules find the shapes in an image, with their color, size and position.

It uses no model. An image must match every field of the prompt's scene that is not None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.shapes.world import BACKGROUNDS, COLORS, EXTENT, PLACES, RELATIONS, SHAPES, Scene, Thing

MIN_AREA = 0.0025  # share of the image; smaller spots are not objects
FOREGROUND_DISTANCE = 60  # RGB distance to the background; pixels beyond it belong to an object
COLOR_DISTANCE = 60  # maximal RGB distance to a named color
LARGE_FROM = 0.28  # share of the image's width or height; small shapes have at most 0.22, large ones at least 0.32
# Intersection over union with the ideal shape in the same box. In an image of 64 pixels a small triangle has 14 x 12
# pixels. If its soft tip is a pixel short, it overlaps by 0.75 to 0.8, and people still see a triangle.
SHAPE_OVERLAP = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One object found in an image; `color` and `shape` are None if no rule matches.

    `x` and `y` are the center of its box, in the coordinates of a scene.
    """

    color: str | None
    shape: str | None
    size: str
    x: float
    y: float


def faults(pixels: np.ndarray, scene: Scene) -> list[str]:
    """The faults of a uint8 [height, width, 3] image; empty if the image is right."""
    return differences(*look(pixels), scene)


def differences(background: str | None, things: list[Seen], scene: Scene) -> list[str]:
    """What `look` found in an image and a scene's prompt does not say; empty if the image is right."""
    found = []
    if scene.background not in (None, background):
        found.append(f"background {background}, not {scene.background}")
    num_wanted = 1 if scene.is_single else 2
    if len(things) != num_wanted:
        return [*found, f"{len(things)} objects, not {num_wanted}"]
    if scene.is_single:
        return found + _thing_faults(things[0], scene.first) + _place_faults(things[0], scene.place)
    if scene.twice:
        return found + _thing_faults(things[0], scene.first) + _thing_faults(things[1], scene.first)
    dx, dy = RELATIONS[scene.relation]
    first, second = sorted(things, key=lambda thing: -(thing.x * dx + thing.y * dy))
    if abs((first.x - second.x) * dx + (first.y - second.y) * dy) < EXTENT / 8:
        found.append(f"not clearly {scene.relation}")
    return found + _thing_faults(first, scene.first) + _thing_faults(second, scene.second)


def look(pixels: np.ndarray) -> tuple[str | None, list[Seen]]:
    """The name of the background color, and the objects in front of it."""
    rgb = pixels.astype(np.float64)
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    ground = np.median(border, axis=0)
    mask = np.linalg.norm(rgb - ground, axis=-1) > FOREGROUND_DISTANCE
    return _color_name(ground, BACKGROUNDS), [_see(part, rgb) for part in _parts(mask) if part.mean() >= MIN_AREA]


def _thing_faults(seen: Seen, wanted: Thing) -> list[str]:
    pairs = [(seen.color, wanted.color), (seen.shape, wanted.shape), (seen.size, wanted.size)]
    return [f"{found}, not {asked}" for found, asked in pairs if asked is not None and found != asked]


def _place_faults(seen: Seen, place: str | None) -> list[str]:
    """The nearest of the five places must be the one in the scene."""
    nearest = min(PLACES, key=lambda name: np.linalg.norm(np.array([seen.x, seen.y]) - PLACES[name]))
    return [] if place in (None, nearest) else [f"{nearest}, not {place}"]


def _see(part: np.ndarray, rgb: np.ndarray) -> Seen:
    rows, columns = np.nonzero(part)
    box = part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    y, x = (
        EXTENT * (side.min() + side.max()) / 2 / length
        for side, length in zip((rows, columns), part.shape, strict=True)
    )
    size = "large" if max(box.shape) >= LARGE_FROM * part.shape[0] else "small"
    return Seen(color=_color_name(np.median(rgb[part], axis=0), COLORS), shape=_shape_name(box), size=size, x=x, y=y)


def _color_name(color: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str | None:
    nearest = min(names, key=lambda name: np.linalg.norm(color - names[name]))
    return nearest if np.linalg.norm(color - names[nearest]) <= COLOR_DISTANCE else None


def _shape_name(box: np.ndarray) -> str | None:
    """The shape whose ideal form overlaps best in this box; None if it overlaps too little or the box is stretched."""
    height, width = box.shape
    if not 0.7 < height / width < 1.4:
        return None
    overlap = {shape: _overlap(box, _ideal(shape, height, width)) for shape in SHAPES}
    best = max(overlap, key=overlap.get)
    return best if overlap[best] >= SHAPE_OVERLAP else None


def _ideal(shape: str, height: int, width: int) -> np.ndarray:
    """The mask of a shape that fills its box: the shape's inequality on coordinates from -1 to 1."""
    y = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    x = ((np.arange(width) + 0.5) / width * 2 - 1)[None, :]
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "triangle":
        return np.abs(x) <= (y + 1) / 2
    if shape == "diamond":
        return np.abs(x) + np.abs(y) <= 1
    return np.ones((height, width), dtype=bool)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The 4-connected parts of a mask, each as a mask of the same size."""
    remaining = mask.copy()
    parts = []
    while remaining.any():
        part = np.zeros_like(mask)
        part[np.unravel_index(remaining.argmax(), mask.shape)] = True
        size = 0
        while (grown := part.sum()) != size:
            size = grown
            for axis in (0, 1):  # sweep along both axes until the part stops growing
                part = _spread(part, remaining, axis)
        parts.append(part)
        remaining &= ~part
    return parts


def _spread(part: np.ndarray, mask: np.ndarray, axis: int) -> np.ndarray:
    """`part`, grown within `mask` along one axis: each run of mask pixels that it touches joins it."""
    run = np.cumsum(np.diff(mask.astype(np.int8), axis=axis, prepend=0) == 1, axis=axis)  # run number in the line
    lines = np.arange(mask.shape[1 - axis])
    line = lines[:, None] if axis == 1 else lines[None, :]
    key = line * (mask.shape[axis] + 1) + run
    touched = np.unique(key[part & mask])
    return mask & np.isin(key, touched)
