"""Renders held-out prompts with the engines of this project and prints the share of images that the judge accepts.

`python -m examples.shapes.evaluate janus-shapes` prints a line per guidance weight; `--sheet FILE.png` also writes the
first images, one row per weight.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from actors.checkpoint.models import open_models
from actors.checkpoint.open import fetch_checkpoint
from actors.engines import Engine, load_engine
from actors.families import FAMILIES
from actors.noise import derive_seed
from actors.recipe import Recipe
from actors.request import ImageRequest, RenderedImage
from examples.shapes.judge import faults
from examples.shapes.world import Scene, describe, held_out_pairs, held_out_singles

WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
SHEET_COLUMNS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="janus-shapes, janusflow-shapes or a folder")
    parser.add_argument("--num", type=int, default=200, help="prompts of each kind (default: %(default)s)")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    parser.add_argument("--sheet", type=Path, help="PNG file for the first images of each weight")
    arguments = parser.parse_args()
    engine, recipe = load(arguments.checkpoint)
    kinds = {"single": held_out_singles(7, arguments.num), "pair": held_out_pairs(7, arguments.num)}
    rows = []
    print("weight " + " ".join(f"{kind:>8}" for kind in kinds))
    for weight in arguments.weights:
        images = {kind: render(engine, recipe, scenes, weight) for kind, scenes in kinds.items()}
        shares = [share_right(images[kind], scenes) for kind, scenes in kinds.items()]
        print(f"{weight:6g} " + " ".join(f"{share:8.1%}" for share in shares), flush=True)
        half = SHEET_COLUMNS // 2
        rows.append(np.concatenate([*images["single"][:half], *images["pair"][:half]], axis=1))
    if arguments.sheet:
        Image.fromarray(np.concatenate(rows)).save(arguments.sheet)


def load(name: str | Path) -> tuple[Engine, Recipe]:
    """The engine of a bundled checkpoint or of a folder, in float32, and the recipe it was loaded with."""
    checkpoint, vae = open_models(str(name))
    family = FAMILIES[checkpoint.family]
    recipe = Recipe(
        family=checkpoint.family,
        checkpoint=checkpoint.name,
        revision=None,
        weights_sha256="",
        prompt_format=checkpoint.prompt_format,
        vae=vae and vae.name,
        vae_revision=None,
        vae_sha256=None,
        dtype="float32",
        sampler=family.sampler,
        cfg_weights=(family.default_cfg_weight,),
        images_per_prompt=1,
        seed=0,
        **family.settings,
    )
    return load_engine(recipe, *(fetch_checkpoint(model) for model in (checkpoint, vae) if model)), recipe


def render(engine: Engine, recipe: Recipe, scenes: Sequence[Scene], cfg_weight: float) -> list[np.ndarray]:
    """One image for each scene's prompt, uint8 [height, width, 3]; the seed depends on the prompt alone."""
    return [image.pixels for image in render_images(engine, recipe, scenes, cfg_weight)]


def render_images(
    engine: Engine, recipe: Recipe, scenes: Sequence[Scene], cfg_weight: float, batch: int = 16
) -> list[RenderedImage]:
    """The same images with what they were decoded from."""
    requests = [
        ImageRequest(
            image_id=str(index),
            prompt_id=str(index),
            image_index=0,
            prompt=describe(scene),
            seed=derive_seed(0, describe(scene), 0),
            cfg_weight=cfg_weight,
            temperature=recipe.temperature,
            num_inference_steps=recipe.num_inference_steps,
        )
        for index, scene in enumerate(scenes)
    ]
    batches = [requests[start : start + batch] for start in range(0, len(requests), batch)]
    return [image for chunk in batches for image in engine.render(chunk)]


def share_right(images: Sequence[np.ndarray], scenes: Sequence[Scene]) -> float:
    verdicts = [not faults(pixels, scene) for pixels, scene in zip(images, scenes, strict=True)]
    return sum(verdicts) / len(verdicts)


if __name__ == "__main__":
    main()
