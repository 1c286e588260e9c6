"""The table of engines: what each model family is called, what it takes, and which class renders it.

A new family is a new file beside `janus.py` and one entry here. Importing this module imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The facts of a family that a job file is checked against.

    `engine` is `module:class`. `sampler` names the algorithm and its version and is written into every manifest row:
    it changes when the same request would get other bytes. `settings` are the sampling keys the family takes beside
    the common ones, with their defaults, `dtypes` what its models run in.
    """

    engine: str
    sampler: str
    default_cfg_weight: float
    settings: dict[str, float | int | str]
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


FAMILIES: dict[str, Family] = {
    "janus": Family(
        engine="actors.janus.engine:JanusEngine",
        sampler="janus-3",
        default_cfg_weight=5.0,
        settings={"temperature": 1.0},
        dtypes=("float32", "bfloat16", "fp8"),
    ),
    "janusflow": Family(
        engine="actors.janusflow.engine:JanusFlowEngine",
        sampler="janusflow-2",
        default_cfg_weight=2.0,
        settings={"num_inference_steps": 30, "solver": "euler", "match_reference_demo": False},
    ),
    "toy": Family(
        engine="actors.toy:ToyEngine",
        sampler="toy-1",
        default_cfg_weight=5.0,
        settings={"temperature": 1.0},
    ),
}


class Engine(Protocol):
    """What the actor needs of an engine. Each family's class has these and shares no base class."""

    device: str  # as written to the manifest: "cpu" or the GPU's name
    default_batch_size: int

    def refusal(self, request: ImageRequest) -> str | None:
        """Why this request can never be rendered (a prompt longer than the model's context, say), or None."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order. An image's bytes do not depend on the other requests."""


def load_engine(recipe: Recipe, folder: Path | None, vae_folder: Path | None) -> Engine:
    """Build the recipe's engine from checkpoint folders that lie on this machine's disk (None for the toy engine).

    The device is the first visible GPU, or the CPU. Raises CheckpointError with the reason.
    """
    module_name, class_name = FAMILIES[recipe.family].engine.split(":")
    engine_class: Callable[..., Engine] = getattr(importlib.import_module(module_name), class_name)
    if recipe.family == "toy":
        return engine_class(recipe)
    return engine_class(recipe, folder) if vae_folder is None else engine_class(recipe, folder, vae_folder)
