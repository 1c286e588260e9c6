"""Sentences about an image, true and false: what `train_vision` learns to tell apart.

A false sentence describes the image with one thing changed. Scenes that are held out of training are in no sentence.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from actors.recipe import PROMPT_FIELD
from examples.shapes.judge import Seen, differences
from examples.shapes.world import (
    BACKGROUNDS,
    COLORS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    describe,
    forget_words,
    is_held_out,
    random_scene,
)
from jobs.job_file.sections.looking import DEFAULT_QUESTION

UNRELATED = 0.15  # share of false sentences that describe another image


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A sentence about an image. `near` is a true one that begins alike, None if there is none."""

    text: str
    is_true: bool
    near: str | None


def sentences(scene: Scene, seen: tuple[str | None, list[Seen]], count: int, rng: random.Random) -> list[Sentence]:
    """`count` sentences about an image that was made from `scene`; half of them were meant to be true.

    `seen` is what the pixel rules find in the image; they decide which sentences are true.
    """
    found = []
    for index in range(count):
        true_scene = said_otherwise(scene, rng)
        other = true_scene if index % 2 == 0 else changed(true_scene, rng)
        if is_held_out(other):
            other = true_scene
        forgotten = rng.random()
        said, asked = (_forget(each, forgotten, _kind(other) == _kind(scene)) for each in (true_scene, other))
        is_said_true, is_true = (not differences(*seen, each) for each in (said, asked))
        near = describe(asked if is_true else said) if is_true or is_said_true else None
        found.append(Sentence(text=describe(asked), is_true=is_true, near=near))
    return found


def question_of(sentence: str) -> str:
    """The question of a judge about an image."""
    return DEFAULT_QUESTION.replace(PROMPT_FIELD, sentence)


def said_otherwise(scene: Scene, rng: random.Random) -> Scene:
    """The scene, or in half of the cases the same image described from its other end."""
    return scene if rng.random() < 0.5 else scene.from_the_other_end()


def changed(scene: Scene, rng: random.Random) -> Scene:
    """A complete scene that differs in one thing, or another scene."""
    if rng.random() < UNRELATED:
        return random_scene(rng)
    changes: list[Callable[[], Scene]] = [
        lambda: replace(scene, first=_changed_thing(scene, scene.first, rng)),
        lambda: replace(scene, first=_changed_thing(scene, scene.first, rng)),
        lambda: replace(scene, background=_other(BACKGROUNDS, rng, scene.background, *_colors(scene))),
    ]
    if scene.second is not None:
        second = scene.second
        changes += [
            lambda: replace(scene, second=_changed_thing(scene, second, rng)),
            lambda: replace(scene, second=_changed_thing(scene, second, rng)),
            lambda: replace(scene, relation=_other(RELATIONS, rng, scene.relation)),
            lambda: replace(scene, first=second, second=scene.first),
            lambda: replace(
                scene,
                first=replace(second, size=scene.first.size),
                second=replace(scene.first, size=second.size),
            ),
            lambda: replace(scene, second=None, relation=None, place=rng.choice(list(PLACES))),
        ]
    elif scene.twice:
        changes.append(lambda: replace(scene, twice=False, place=rng.choice(list(PLACES))))
    else:
        changes += [
            lambda: replace(scene, place=_other(PLACES, rng, scene.place)),
            lambda: replace(scene, place=_other(PLACES, rng, scene.place)),
            lambda: replace(scene, place=None, twice=True),
        ]
    return rng.choice(changes)()


def _forget(scene: Scene, seed: float, is_like_the_image: bool) -> Scene:
    """Forget the same words of two scenes that have the same parts."""
    return forget_words(scene, random.Random(seed)) if is_like_the_image else scene


def _kind(scene: Scene) -> tuple[bool, bool]:
    return scene.is_single, scene.twice


def _changed_thing(scene: Scene, thing: Thing, rng: random.Random) -> Thing:
    name = rng.choice(("color", "shape", "size"))
    if name == "color":
        return replace(thing, color=_other(COLORS, rng, scene.background, *_colors(scene)))
    return replace(thing, **{name: _other(SHAPES if name == "shape" else SIZES, rng, getattr(thing, name))})


def _colors(scene: Scene) -> list[str]:
    return [thing.color for thing in (scene.first, scene.second) if thing is not None]


def _other(names, rng: random.Random, *avoid: str | None) -> str:
    return rng.choice([name for name in names if name not in avoid])
