"""The judge of the shapes finds no fault in true drawings and names what is wrong with others; the split is a split."""

import dataclasses
import random

import numpy as np
import pytest

from actors.prompt.template import TOKENS
from actors.understanding.prompt import QuestionTokenizer
from examples.shapes import world
from examples.shapes.judge import faults, look
from examples.shapes.lessons import IGNORED, Teacher
from examples.shapes.questions import changed, sentences
from examples.shapes.schedule import CHECKPOINTS
from examples.shapes.world import Scene, Thing

RED_CIRCLE = Scene(first=Thing(color="red", shape="circle", size="small"), place="at the top", background="white")
BESIDE = Scene(
    first=Thing(color="red", shape="circle", size="small"),
    second=Thing(color="blue", shape="square", size="large"),
    relation="left of",
    background="yellow",
)


def drawn(scene: Scene, image_size: int = 64, seed: int = 0) -> np.ndarray:
    return np.asarray(world.draw(scene, random.Random(seed), image_size))


@pytest.mark.parametrize("image_size", [64, 96, 128])
def test_the_judge_finds_no_fault_in_true_drawings(image_size):
    rng = random.Random(0)
    scenes = [world.random_scene(rng) for _ in range(60)]
    assert [faults(drawn(scene, image_size), scene) for scene in scenes] == [[]] * len(scenes)


def test_the_judge_fails_the_drawing_of_another_scene():
    rng = random.Random(1)
    scenes = [world.random_scene(rng) for _ in range(60)]
    neighbors = [*scenes[1:], scenes[0]]
    assert all(faults(drawn(scene), other) for scene, other in zip(scenes, neighbors, strict=True))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"background": "gray"}, "background white, not gray"),
        ({"place": "on the left"}, "at the top, not on the left"),
        ({"first": Thing(color="blue", shape="circle", size="small")}, "red, not blue"),
        ({"first": Thing(color="red", shape="square", size="small")}, "circle, not square"),
        ({"first": Thing(color="red", shape="circle", size="large")}, "small, not large"),
        ({"twice": True, "place": None}, "1 objects, not 2"),
    ],
)
def test_the_judge_names_the_one_word_that_is_wrong(changes, fault):
    assert faults(drawn(RED_CIRCLE), dataclasses.replace(RED_CIRCLE, **changes)) == [fault]


def test_the_judge_tells_left_from_right():
    swapped = dataclasses.replace(BESIDE, first=BESIDE.second, second=BESIDE.first)
    assert faults(drawn(BESIDE), BESIDE) == []
    assert "blue, not red" in faults(drawn(swapped), BESIDE)


def test_what_a_prompt_leaves_open_is_not_demanded():
    open_scene = Scene(first=Thing(color="red", shape="circle", size=None))
    assert world.describe(open_scene) == "a red circle"
    assert faults(drawn(RED_CIRCLE), open_scene) == []


def test_a_shape_with_a_piece_missing_is_no_shape():
    pixels = drawn(dataclasses.replace(BESIDE, relation="above"), 128).copy()
    rows, columns = np.nonzero(np.all(pixels == world.COLORS["blue"], axis=-1))
    pixels[rows.mean().astype(int) :, : columns.mean().astype(int)] = world.BACKGROUNDS["yellow"]
    assert faults(pixels, BESIDE) != []


def test_no_held_out_scene_is_in_training():
    stream = world.training_scenes(0)
    seen = {next(stream) for _ in range(3000)}
    held_out = world.held_out_singles(0, 300) + world.held_out_pairs(0, 300)
    assert not seen & set(held_out)
    assert not any(
        (scene.first.color, scene.first.shape) in world.NEVER_ALONE for scene in seen if scene.second is None
    )


def test_a_prompt_is_read_back_as_its_scene():
    rng = random.Random(2)
    scenes = [world.forget_words(world.random_scene(rng), rng) for _ in range(300)]
    assert [world.read_prompt(world.describe(scene)) for scene in scenes] == scenes
    with pytest.raises(ValueError, match="got 'a red fox'"):
        world.read_prompt("a red fox")


def test_sentences_about_a_drawing_are_true_or_false_by_the_pixel_rules():
    rng, scenes = random.Random(3), world.training_scenes(3)
    for scene in (next(scenes) for _ in range(40)):
        pixels = drawn(scene)
        asked = sentences(scene, look(pixels), 6, rng)
        assert [sentence.is_true for sentence in asked] == [
            faults(pixels, world.read_prompt(sentence.text)) == [] for sentence in asked
        ]
        assert all(sentence.near is not None for sentence in asked)


def test_most_changes_make_a_sentence_false_and_none_leaves_the_world():
    rng = random.Random(4)
    scenes = [world.random_scene(rng) for _ in range(200)]
    others = [changed(scene, rng) for scene in scenes]
    assert [world.read_prompt(world.describe(other)) for other in others] == others
    are_false = [faults(drawn(scene), other) != [] for scene, other in zip(scenes, others, strict=True)]
    assert np.mean(are_false) > 0.9


def test_a_lesson_marks_the_word_from_which_a_sentence_is_wrong():
    tokenizer = QuestionTokenizer(CHECKPOINTS / "janus-shapes", TOKENS, vocab_size=448)
    lesson = next(Teacher(tokenizer, own=[], seed=0).lessons())
    for verdicts in lesson.verdicts_BQS.flatten(0, 1).tolist():
        known = [verdict for verdict in verdicts if verdict != IGNORED]
        assert known == sorted(known, reverse=True)  # right up to a word, and wrong from there on
    assert {0, 1} <= set(lesson.verdicts_BQS.flatten().tolist())
