"""The recipe of a job that looks at images, `task: understand`."""

from __future__ import annotations

import dataclasses

from actors.checkpoint.open import Checkpoint
from actors.families import FAMILIES
from actors.recipe import Look, Recipe, SamplingSettings, sampling_settings
from actors.understanding.ability import check_can_look
from actors.understanding.pixels import square_of
from jobs.job_file.errors import JobFileError
from jobs.job_file.sections.looking import UnderstandSection
from jobs.job_file.spec import JobSpec
from workflows.prompt_files.formats import format_of
from workflows.storage.path import absolute_location

MANIFEST_FOLDER = "manifest"  # of an output


def as_look_recipe(recipe: Recipe, spec: JobSpec, checkpoint: Checkpoint, prompts: str) -> Recipe:
    """The recipe without what renders, and with what looks. Raises CheckpointError, and JobFileError for a setting that
    has no meaning here."""
    check_can_look(checkpoint)
    for key in ("vae", "vae_revision", "kv_cache", "adapter"):
        if getattr(spec.model, key):
            raise JobFileError(f"model.{key}: a job with task: understand renders nothing and takes none")
    section, square = spec.understand or UnderstandSection(), square_of(checkpoint)
    look = Look(
        question=section.question,
        max_tokens=section.max_tokens,
        scores_all=section.score,
        root=absolute_location(section.root, "understand.root") if section.root else folder_of(prompts),
        image_size=square.size,
        min_side=square.min_side,
        ground=square.ground,
    )
    return dataclasses.replace(
        recipe,
        sampler=FAMILIES[recipe.family].looker_version,
        cfg_weights=(1.0,),
        protocol=None,
        look=look,
        **sampling_settings(SamplingSettings()),
    )


def folder_of(prompts: str) -> str:
    """The folder that relative locations in these prompt files refer to: the output, if they are its manifest."""
    is_file = any(character in prompts for character in "*?[") or bool(format_of(prompts).ending)
    folder = prompts.split("*")[0].rpartition("/")[0] if is_file else prompts
    parent, _, name = folder.rpartition("/")
    return parent if name == MANIFEST_FOLDER and parent else folder
