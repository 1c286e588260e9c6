"""A world of colored shapes: its scenes, their prompts and drawings, and the split into training and held-out scenes.

Everything is a function of a seed.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

EXTENT = 128  # scene coordinates run from 0 to EXTENT, independent of the image size
MIDDLE = EXTENT // 2
COLORS = {
    "red": (215, 35, 45),
    "green": (40, 155, 70),
    "blue": (40, 80, 215),
    "yellow": (250, 220, 45),
    "purple": (145, 60, 175),
    "orange": (245, 130, 25),
}
BACKGROUNDS = {"white": (255, 255, 255), "black": (15, 15, 15), "gray": (150, 150, 150), "yellow": COLORS["yellow"]}
SHAPES = ("circle", "square", "triangle", "diamond")
SIZES = {"small": 14, "large": 24}  # half the width of a shape
PLACES = {
    "on the left": (32, 64),
    "on the right": (96, 64),
    "at the top": (64, 32),
    "at the bottom": (64, 96),
    "in the center": (64, 64),
}
STEPS = (-16, 0, 16)  # drawings shift a shape by one of these, so one prompt has several possible images
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# In training these occur only together with another shape, never alone and never twice.
NEVER_ALONE = frozenset({("red", "diamond"), ("green", "circle"), ("blue", "triangle"), ("purple", "square")})


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One shape. `size` is None if the prompt does not mention it."""

    color: str
    shape: str
    size: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The content of an image: one shape at a place, the same shape twice, or two shapes in a relation.

    With `second` and `relation`, `place` is None. Other fields are None if the prompt does not mention them.
    """

    first: Thing
    second: Thing | None = None
    twice: bool = False
    relation: str | None = None
    place: str | None = None
    background: str | None = None

    @property
    def is_single(self) -> bool:
        return self.second is None and not self.twice

    def from_the_other_end(self) -> Scene:
        """The same image in other words: its second shape in relation to the first; of other scenes, the scene."""
        if self.second is None or self.relation is None:
            return self
        return replace(self, first=self.second, second=self.first, relation=INVERSE[self.relation])


def training_scenes(seed: int) -> Iterator[Scene]:
    """An endless stream of complete scenes that are not held out."""
    rng = random.Random(f"training {seed}")
    while True:
        scene = random_scene(rng)
        if not is_held_out(scene):
            yield scene


def held_out_singles(seed: int, num: int) -> list[Scene]:
    """`num` different complete scenes of one shape, each held out of training."""
    return _distinct_held_out(seed, num, lambda scene: scene.is_single)


def held_out_pairs(seed: int, num: int) -> list[Scene]:
    """`num` different complete scenes of two different shapes, each held out of training."""
    return _distinct_held_out(seed, num, lambda scene: scene.second is not None)


def random_scene(rng: random.Random) -> Scene:
    """A complete scene, held out or not: 60 % one shape, 10 % the same shape twice, 30 % a pair."""
    background = rng.choice(list(BACKGROUNDS))
    first = _random_thing(rng, avoid={background})
    kind = rng.random()
    if kind < 0.6:
        return Scene(first=first, place=rng.choice(list(PLACES)), background=background)
    if kind < 0.7:
        return Scene(first=first, twice=True, background=background)
    second = _random_thing(rng, avoid={background, first.color})
    return Scene(first=first, second=second, relation=rng.choice(list(RELATIONS)), background=background)


def is_held_out(scene: Scene) -> bool:
    """Whether training never uses this complete scene: a fifth of the scenes by hash, and NEVER_ALONE on their own.

    The hash of a pair covers its two colors and shapes only, so a held-out pair is held out in every size, relation,
    order and background.
    """
    first = (scene.first.color, scene.first.shape)
    if scene.second is not None:
        second = (scene.second.color, scene.second.shape)
        return _hash_fifth("pair", *sorted([first, second]))
    if first in NEVER_ALONE:
        return True
    return _hash_fifth("alone", first, scene.first.size, scene.place, scene.twice, scene.background)


def describe(scene: Scene) -> str:
    """The scene's prompt: it mentions every field that is not None."""
    if scene.twice:
        words = f"two {_thing_words(scene.first)}s"
    else:
        words = _with_article(_thing_words(scene.first))
    if scene.second is not None:
        words += f" {scene.relation} {_with_article(_thing_words(scene.second))}"
    if scene.place is not None:
        words += f" {scene.place}"
    return words if scene.background is None else f"{words} on a {scene.background} background"


def read_prompt(prompt: str) -> Scene:
    """The scene of a prompt in the words of `describe`. Raises ValueError."""
    found = _PROMPT.fullmatch(prompt)
    if found is None:
        raise ValueError(f"a prompt must read like {describe(_EXAMPLE)!r}, got {prompt!r}")
    first, second = (
        Thing(color=found[f"{name}_color"], shape=found[f"{name}_shape"], size=found[f"{name}_size"])
        if found[f"{name}_color"]
        else None
        for name in ("first", "second")
    )
    assert first is not None
    return Scene(
        first=first,
        second=second,
        twice=found["number"] == "two",
        relation=found["relation"],
        place=found["place"],
        background=found["background"],
    )


def forget_words(scene: Scene, rng: random.Random) -> Scene:
    """The scene with each optional field set to None with probability 0.15, for the prompts of training."""

    def keep(word: str | None) -> str | None:
        return None if rng.random() < 0.15 else word

    second = scene.second and replace(scene.second, size=keep(scene.second.size))
    first = replace(scene.first, size=keep(scene.first.size))
    return replace(scene, first=first, second=second, place=keep(scene.place), background=keep(scene.background))


def draw(scene: Scene, rng: random.Random, image_size: int) -> Image.Image:
    """The image of a complete scene, RGB; `rng` shifts each shape by up to 1/8 of the image."""
    oversampling = 4  # drawn larger and scaled down, for smooth edges
    scale = oversampling * image_size / EXTENT
    canvas = Image.new("RGB", (image_size * oversampling,) * 2, BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(canvas)
    for thing, (x, y) in _placed_things(scene, rng):
        _draw_thing(pen, thing, x * scale, y * scale, SIZES[thing.size] * scale)
    return canvas.reduce(oversampling)


def _placed_things(scene: Scene, rng: random.Random) -> list[tuple[Thing, tuple[int, int]]]:
    """Each thing with its center, shifted across the direction that the prompt names; central things stay."""
    if scene.is_single:
        x, y = PLACES[scene.place]
        return [(scene.first, (x + rng.choice(STEPS) * (y != MIDDLE), y + rng.choice(STEPS) * (x != MIDDLE)))]
    dx, dy = RELATIONS[scene.relation or rng.choice(("left of", "above"))]
    placed = []
    for thing, side in ((scene.first, 1), (scene.second or scene.first, -1)):
        step = rng.choice(STEPS)
        placed.append((thing, (MIDDLE + 32 * side * dx + step * abs(dy), MIDDLE + 32 * side * dy + step * abs(dx))))
    return placed


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, half: float) -> None:
    color = COLORS[thing.color]
    if thing.shape == "circle":
        pen.ellipse((x - half, y - half, x + half - 1, y + half - 1), fill=color)
    elif thing.shape == "square":
        side = 0.9 * half
        pen.rectangle((x - side, y - side, x + side - 1, y + side - 1), fill=color)
    elif thing.shape == "triangle":
        height = half * math.sqrt(3) / 2
        pen.polygon([(x, y - height), (x - half, y + height), (x + half, y + height)], fill=color)
    else:
        pen.polygon([(x, y - half), (x - half, y), (x, y + half), (x + half, y)], fill=color)


def _random_thing(rng: random.Random, avoid: set[str]) -> Thing:
    color = rng.choice([color for color in COLORS if color not in avoid])
    return Thing(color=color, shape=rng.choice(SHAPES), size=rng.choice(list(SIZES)))


def _any_of(name: str, words: Iterable[str]) -> str:
    return f"(?P<{name}>{'|'.join(words)})"


def _thing_pattern(name: str) -> str:
    size, color, shape = (
        _any_of(f"{name}_{kind}", words) for kind, words in (("size", SIZES), ("color", COLORS), ("shape", SHAPES))
    )
    return f"(?:{size} )?{color} {shape}"


_PROMPT = re.compile(
    f"(?P<number>an?|two) {_thing_pattern('first')}s?"
    f"(?: {_any_of('relation', RELATIONS)} an? {_thing_pattern('second')})?"
    f"(?: {_any_of('place', PLACES)})?(?: on an? {_any_of('background', BACKGROUNDS)} background)?"
)
_EXAMPLE = Scene(first=Thing(color="red", shape="circle", size="small"), place="on the left", background="gray")


def _distinct_held_out(seed: int, num: int, wanted) -> list[Scene]:
    rng = random.Random(f"held out {seed}")
    found: dict[Scene, None] = {}
    while len(found) < num:
        scene = random_scene(rng)
        if wanted(scene) and is_held_out(scene):
            found[scene] = None
    return list(found)


def _hash_fifth(*words: object) -> bool:
    return hashlib.sha256(repr(words).encode()).digest()[0] < 51


def _thing_words(thing: Thing) -> str:
    return f"{thing.color} {thing.shape}" if thing.size is None else f"{thing.size} {thing.color} {thing.shape}"


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words
