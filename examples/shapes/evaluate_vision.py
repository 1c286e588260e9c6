"""Shows a checkpoint drawings of held-out scenes, and prints how many of its answers and captions are right.

    python -m examples.shapes.evaluate_vision janus-shapes

Questions are those of `judge:` in a job file. One sentence describes the drawing, and another, with one thing changed,
does not. A caption is right if the pixel rules find no fault with it, and complete if it mentions everything.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actors.checkpoint.models import open_models
from actors.checkpoint.open import fetch_checkpoint
from actors.understanding.looker import Looker
from examples.shapes.judge import faults
from examples.shapes.questions import changed, question_of, said_otherwise
from examples.shapes.train_vq import IMAGE_SIZE
from examples.shapes.world import Scene, describe, draw, held_out_pairs, held_out_singles, read_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="janus-shapes or a folder")
    parser.add_argument("--num", type=int, default=200, help="drawings of each kind (default: %(default)s)")
    arguments = parser.parse_args()
    looker = load_looker(arguments.checkpoint)
    kinds = {"one shape": held_out_singles(7, arguments.num), "two shapes": held_out_pairs(7, arguments.num)}
    shares = {kind: shares_right(looker, scenes) for kind, scenes in kinds.items()}
    print(" | ".join(["| drawings", *shares["one shape"]]) + " |")
    print("|" + "---|" * (1 + len(shares["one shape"])))
    for kind, found in shares.items():
        print(" | ".join([f"| {kind}", *(f"{share:.1%}" for share in found.values())]) + " |")


def load_looker(name: str | Path) -> Looker:
    """A bundled checkpoint or a folder that looks at images, in float32."""
    checkpoint, _ = open_models(str(name))
    return Looker(fetch_checkpoint(checkpoint), dtype="float32")


def shares_right(looker: Looker, scenes: Sequence[Scene]) -> dict[str, float]:
    """The shares of right answers and captions for drawings of these scenes."""
    rng = random.Random("look")
    images = [np.asarray(draw(scene, rng, IMAGE_SIZE)) for scene in scenes]
    true = [describe(said_otherwise(scene, rng)) for scene in scenes]
    false = [describe(_false(scene, image, rng)) for scene, image in zip(scenes, images, strict=True)]
    yes, no = (looker.score(images, list(map(question_of, texts))) for texts in (true, false))
    captions = [_scene_of(caption) for caption in looker.caption(images)]
    right = [said is not None and not faults(image, said) for said, image in zip(captions, images, strict=True)]
    pairs = zip(captions, scenes, strict=True)
    complete = [said in (scene, scene.from_the_other_end()) for said, scene in pairs]
    return {
        "true sentences: yes": float(np.mean(yes > 0.5)),
        "false sentences: no": float(np.mean(no < 0.5)),
        "captions right": float(np.mean(right)),
        "captions complete": float(np.mean(complete)),
    }


def _false(scene: Scene, image: np.ndarray, rng: random.Random) -> Scene:
    """The scene with one thing changed, so that it does not describe the image."""
    while True:
        other = changed(scene, rng)
        if faults(image, other):
            return other


def _scene_of(caption: str | None) -> Scene | None:
    try:
        return read_prompt(caption or "")
    except ValueError:
        return None


if __name__ == "__main__":
    main()
