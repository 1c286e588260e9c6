"""The README.md of an export: a dataset card, with a YAML head that Hugging Face reads. The text is in card.md."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import DatasetCard, DatasetCardData

from actors.errors import shown
from actors.prompt.template import template_to_json
from actors.recipe import Judge
from workflows.export.features import webdataset_features
from workflows.export.inventory import LEFT_OUT, Inventory
from workflows.export.layouts.layout import ExportError, Written
from workflows.export.layouts.table import EXPORT_LAYOUTS
from workflows.export.limits import bytes_text
from workflows.output.claim import Claim
from workflows.output.encode import DIGITAL_SOURCE_TYPE, EXTENSIONS
from workflows.output.manifest import kind_of_recipe, own_schema
from workflows.output.tally import Tally
from workflows.scores.parts import Scorer

TEMPLATE = Path(__file__).parent / "card.md"
# https://huggingface.co/docs/hub/datasets-cards : the hub's names for sizes.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LARGEST_SIZE = "n>10M"
LOADED_BY_NAME = 'load_dataset("DEST")'  # in the code of a layout that `datasets` loads by the name of its repository
_LICENSE = re.compile(r"[a-z0-9]+([.+-]+[a-z0-9]+)*\+*")
RULE_NOTES = {
    "--where": "the images that meet this condition",
    "--top": "of each prompt row, this many images with the highest values",
    "--pairs": "of each prompt row, the images with the highest and the lowest value",
    "--sample": "this many images or pairs, chosen at random",
}
# What the columns of an image hold, in the order of the manifest.
COLUMN_NOTES = {
    ("image",): "the image file",
    ("codes",): "the codes of the image, which the decoder next to the data turns into pixels",
    ("image_id", "prompt_id", "image_index"): "ids of image and prompt; the number of the image among its prompt's",
    ("prompt", "negative_prompt"): "the text that the image was made from, and the text that it was kept away from",
    ("seed", "row_seed"): "the image's own seed, and the seed that it follows from; text, because they have 64 bits",
    ("cfg_weight", "cfg_interval"): "guidance weight, and the part of the sampling that was guided (null: all of it)",
    ("temperature",): "sampling temperature of Janus",
    ("num_inference_steps", "solver", "match_reference_demo"): "how JanusFlow's equation was solved",
    ("model", "model_revision", "weights_sha256"): "the model, its commit, and the hash of its weights",
    ("vae", "vae_revision", "vae_sha256"): "the same for the VAE of JanusFlow",
    ("family", "prompt_format", "dtype", "kv_cache", "sampler"): "the code that ran the model, with its version",
    ("prompt_template", "protocol", "adapters"): "the text around the prompt, how the model reasoned, merged adapters",
    ("reasoning",): "the text that the model wrote before the image (null: none)",
    ("width", "height", "image_sha256"): "size in pixels, and hash of the file",
    ("mean_saturation", "contrast", "clipped_fraction", "entropy"): "statistics of the pixels",
    ("perceptual_hash",): "64 bits that are similar for images that look alike",
    ("device", "created_at"): "the device that rendered the image, and when",
    ("judge_score", "judge_score_kind"): "the judge's score of the image from 0 to 1, and how it was computed",
    ("judge_caption",): "what the judge saw in the image",
    ("candidate", "candidate_seeds", "candidate_scores"): "which of several candidates was kept, and the others",
    ("judge_question", "judge_model", "judge_model_revision", "judge_weights_sha256"): "the question, and who answered",
    ("judge_prompt_format", "judge_family", "judge_is_own", "judge_looker"): "the code that asked the judge",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """Everything that the card says. `splits` has the counts by split, "" for a dataset without splits; `repository` is
    the ORG/NAME on the hub that the export is uploaded to."""

    claim: Claim
    layout: str
    written: Written
    splits: dict[str, Written]
    tally: Tally
    inventory: Inventory
    license_id: str | None
    repository: str | None
    signed_unit: Literal["image", "shard"] | None


def dataset_card(facts: CardFacts) -> str:
    """The whole file."""
    layout = EXPORT_LAYOUTS[facts.layout]
    language, code = _how_to_read(facts)
    card = DatasetCard.from_template(
        _card_data(facts),
        template_path=str(TEMPLATE),
        name=plain(facts.claim.name),
        checkpoint=plain(facts.claim.recipe.checkpoint),
        written=facts.written,
        size=bytes_text(facts.written.num_bytes),
        num_rejected=facts.tally.num_rejected,
        model_rows=_model_rows(facts),
        sampling_rows=_sampling_rows(facts),
        carried_rows=_carried_rows(facts),
        renamed=_renamed(facts),
        rule_rows=_rule_rows(facts),
        split_rows=_split_rows(facts),
        scorers=[_scorer_rows(one.scorer) for one in facts.inventory.scores],
        num_committed=facts.inventory.num_committed,
        source_type=DIGITAL_SOURCE_TYPE,
        has_pixels=layout.has_pixels,
        signed_unit=facts.signed_unit,
        columns=_code(_columns(facts)),
        column_rows=_column_rows(facts),
        pair_columns=_code(layout.pair_columns),
        has_columns=layout.has_columns,
        language=language,
        code=code,
        is_loaded_by_name=LOADED_BY_NAME in layout.how_to_read[1],
        repository=facts.repository,
        license_id=facts.license_id and plain(facts.license_id),
    )
    return f"{card}\n"


def read_license(text: str) -> str:
    """A license as the hub writes it, in lower case: `CC-BY-4.0` is `cc-by-4.0`. Raises ExportError."""
    if not _LICENSE.fullmatch(text.lower()):
        raise ExportError(f"--license takes the identifier of a license, such as cc0-1.0, got {shown(text)}")
    return text.lower()


def _card_data(facts: CardFacts) -> DatasetCardData:
    written, recipe, layout = facts.written, facts.claim.recipe, EXPORT_LAYOUTS[facts.layout]
    more: dict[str, Any] = {} if facts.license_id else {"license_name": "not-stated"}
    if layout.pattern is not None:
        filled = [split for split, counts in facts.splits.items() if counts.num_images]
        files = [{"split": split or "train", "path": layout.pattern(split or None)} for split in filled]
        more["configs"] = [{"config_name": "default", "data_files": files}]
    if layout.is_json:
        extension = EXTENSIONS[facts.claim.images.format]
        more["dataset_info"] = {"features": webdataset_features(facts.inventory.schema, extension)}
    more["janus_batch"] = {
        "layout": facts.layout,
        "num_images": written.num_images,
        "num_prompts": written.num_prompts,
        "num_rejected": facts.tally.num_rejected,
        "num_bytes": written.num_bytes,
        "model": recipe.checkpoint,
        "model_revision": recipe.revision,
        "weights_sha256": recipe.weights_sha256,
        "vae": recipe.vae,
        "vae_sha256": recipe.vae_sha256,
        "cfg_weight": list(recipe.cfg_weights),
        "seed": recipe.seed,
        "images_per_prompt": recipe.images_per_prompt,
        "version": facts.claim.version,
        "rules": facts.inventory.chooser.rules.to_dict() or {},
        "num_removed": facts.inventory.removed,
        "scorers": [dataclasses.asdict(one.scorer) for one in facts.inventory.scores],
    }
    return DatasetCardData(
        pretty_name=facts.claim.name,
        license=facts.license_id or "other",
        task_categories=["text-to-image"],
        size_categories=[next((name for most, name in SIZES if written.num_images < most), LARGEST_SIZE)],
        tags=["synthetic", "janus-batch", recipe.family],
        **more,
    )


def _columns(facts: CardFacts) -> list[str]:
    """The columns of an image, without those of the prompt files."""
    own = EXPORT_LAYOUTS[facts.layout].own_columns if not facts.written.num_pairs else ()
    scores = [one.name for one in facts.inventory.scores]
    names = own_schema(kind_of_recipe(facts.claim.recipe)).names
    return [*own, *(name for name in names if name not in LEFT_OUT), *scores]


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _column_rows(facts: CardFacts) -> dict[str, str]:
    """What the columns of an image hold, without those of the prompt files."""
    names = _columns(facts)
    notes = {_code([name for name in group if name in names]): note for group, note in COLUMN_NOTES.items()}
    scores = {_code([one.name]): "what this scorer gave the image, see above" for one in facts.inventory.scores}
    return {group: note for group, note in (notes | scores).items() if group}


def _how_to_read(facts: CardFacts) -> tuple[str, str]:
    """The language of the code and the code. It opens the first split that holds images."""
    language, code = EXPORT_LAYOUTS[facts.layout].how_to_read
    split = next((split for split, counts in facts.splits.items() if split and counts.num_images), "train")
    if LOADED_BY_NAME in code and facts.repository is not None:
        code = code.replace("DEST", facts.repository)
    return language, code.replace("SPLIT", split)


def _rule_rows(facts: CardFacts) -> dict[str, tuple[str, str]]:
    """Each rule, what it keeps, and the number of images that it removed."""
    return {
        plain(rule): (RULE_NOTES[rule.partition(" ")[0]], f"{num:,}") for rule, num in facts.inventory.removed.items()
    }


def _split_rows(facts: CardFacts) -> dict[str, str]:
    """Images and prompts of each split; none for a dataset without splits."""
    return {
        plain(split): f"{written.num_images:,} images of {written.num_prompts:,} prompts"
        for split, written in facts.splits.items()
        if split
    }


def _scorer_rows(scorer: Scorer) -> dict[str, str]:
    """A scorer as rows of a table."""
    return _rows(
        {
            "scorer": scorer.name,
            "version": scorer.version,
            "model": scorer.checkpoint,
            "revision": scorer.revision,
            "SHA-256 of the weights": scorer.weights_sha256,
            **{f"setting {name}": _setting_text(value) for name, value in scorer.settings.items()},
        }
    )


def _setting_text(value: Any) -> Any:
    """A record, such as the scorer of embeddings, as its fields."""
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{name} {_setting_text(one)}" for name, one in value.items() if one not in (None, "", {}))


def _model_rows(facts: CardFacts) -> dict[str, str]:
    recipe = facts.claim.recipe
    return _rows(
        {
            "model": recipe.checkpoint,
            "revision": recipe.revision,
            "SHA-256 of the weights": recipe.weights_sha256,
            "VAE": recipe.vae,
            "VAE revision": recipe.vae_revision,
            "SHA-256 of the VAE": recipe.vae_sha256,
            "family": recipe.family,
        }
    )


def _sampling_rows(facts: CardFacts) -> dict[str, str]:
    recipe = facts.claim.recipe
    return _rows(
        {
            "rendered with": f"janus-batch {facts.claim.version}",
            "started": facts.claim.created_at,
            "guidance weight": ", ".join(f"{weight:g}" for weight in recipe.cfg_weights),
            "guidance interval": recipe.cfg_interval and " to ".join(f"{edge:g}" for edge in recipe.cfg_interval),
            "temperature": recipe.temperature,
            "steps": recipe.num_inference_steps,
            "solver": recipe.solver,
            "seed": recipe.seed,
            "images per prompt": recipe.images_per_prompt,
            "dtype": recipe.dtype,
            "keys and values": recipe.kv_cache,
            "sampler": recipe.sampler,
            "prompt format": recipe.prompt_format,
            **_judge_rows(recipe.judge),
            "prompt template": template_to_json(recipe.prompt_template),
            "protocol": recipe.protocol,
            "adapters": ", ".join(f"{one.name} x {one.weight:g} ({one.sha256[:10]})" for one in recipe.adapters),
        }
    )


def _judge_rows(judge: Judge | None) -> dict[str, Any]:
    """How the images were looked at while they were rendered."""
    if judge is None:
        return {}
    return {
        "question about each image": judge.question,
        "model that answered": judge.checkpoint,
        "its revision": judge.revision,
        "SHA-256 of its weights": judge.weights_sha256,
        "version of the looking": judge.looker,
        "candidates per image": judge.best_of,
        "re-rolled below a score of": judge.retry_below,
    }


def _carried_rows(facts: CardFacts) -> dict[str, str]:
    """The columns of the prompt files, with their types, by the names that they have in the export."""
    names = EXPORT_LAYOUTS[facts.layout].column_names(facts.inventory.schema.names)
    types, known = zip(names, facts.inventory.schema, strict=True), {one.name for one in facts.inventory.scores}
    known |= {*own_schema(kind_of_recipe(facts.claim.recipe)).names}
    return _rows({name: field.type for name, field in types if field.name not in known})


def _renamed(facts: CardFacts) -> dict[str, str]:
    names = EXPORT_LAYOUTS[facts.layout].column_names(facts.inventory.schema.names)
    return {plain(old): plain(new) for old, new in zip(facts.inventory.schema.names, names, strict=True) if old != new}


def _rows(values: dict[str, Any]) -> dict[str, str]:
    """The rows of a table, without empty ones."""
    return {plain(name): plain(value) for name, value in values.items() if value not in (None, "")}


def plain(value: Any) -> str:
    """The value as one line of text without Markdown: it cannot become a table's edge, a tag or a link."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\|`*[]<>" else c for c in text)
