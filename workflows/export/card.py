"""The README.md of an export: a dataset card with a YAML head, made of the claim, the counts and the columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from workflows.export.images import LEFT_OUT
from workflows.export.layouts import EXPORT_LAYOUTS, Written
from workflows.output.claim import Claim
from workflows.output.manifest import MANIFEST_SCHEMA
from workflows.output.tally import Tally

# https://huggingface.co/docs/hub/datasets-cards : the names that the hub gives sizes.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LARGEST_SIZE = "n>10M"
HOW_TO_READ = {
    "imagefolder": ("python", 'import datasets\ndatasets.load_dataset("imagefolder", data_dir="DEST", split="train")'),
    "webdataset": (
        "python",
        'import glob\nimport webdataset\npaths = sorted(glob.glob("DEST/data/*.tar"))\n'
        'webdataset.WebDataset(paths, shardshuffle=False).decode("pil")',
    ),
    "geneval": ("text", "python evaluation/evaluate_images.py DEST --outfile results.jsonl ..."),
    "dpg": (
        "text",
        "accelerate launch dpg_bench/compute_dpg_bench.py --image-root-path DEST/images --resolution SIZE --pic-num N",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """All that the card tells."""

    claim: Claim
    layout: str
    written: Written
    tally: Tally
    schema: pa.Schema
    licence: str | None


def dataset_card(facts: CardFacts) -> str:
    """The whole file."""
    head = yaml.safe_dump(_head(facts), sort_keys=False, allow_unicode=True)
    parts = [_intro(facts), _model(facts), _sampling(facts), _columns(facts), _reading(facts), _licence(facts)]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _head(facts: CardFacts) -> dict[str, Any]:
    written, recipe = facts.written, facts.claim.recipe
    size = next((name for most, name in SIZES if written.num_images < most), LARGEST_SIZE)
    head: dict[str, Any] = {
        "pretty_name": facts.claim.name,
        "license": facts.licence or "other",
        **({} if facts.licence else {"license_name": "not-stated"}),
        "task_categories": ["text-to-image"],
        "size_categories": [size],
        "tags": ["synthetic", "janus-batch", recipe.family],
    }
    if pattern := EXPORT_LAYOUTS[facts.layout].pattern:
        files = [{"split": "train", "path": pattern}]
        head["configs"] = [{"config_name": "default", "data_files": files}]
    head["janus_batch"] = {
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
    }
    return head


def _intro(facts: CardFacts) -> str:
    written = facts.written
    lines = [
        f"# {_plain(facts.claim.name)}",
        "",
        f"{written.num_images:,} images of {written.num_prompts:,} prompts ({written.num_bytes / 1e6:,.1f} MB). They "
        "are synthetic: made by a text-to-image model, no camera was involved.",
    ]
    if facts.tally.num_rejected:
        lines.append(f"{facts.tally.num_rejected:,} images that were asked for could not be made and are not here.")
    if written.num_left_out:
        lines.append(f"{written.num_left_out:,} images are left out: others of their prompt's grid could not be made.")
    return "\n".join(lines)


def _model(facts: CardFacts) -> str:
    recipe = facts.claim.recipe
    rows = {
        "model": recipe.checkpoint,
        "revision": recipe.revision,
        "SHA-256 of the weights": recipe.weights_sha256,
        "VAE": recipe.vae,
        "VAE revision": recipe.vae_revision,
        "SHA-256 of the VAE": recipe.vae_sha256,
        "family": recipe.family,
    }
    return "## Model\n\n" + _table(rows)


def _sampling(facts: CardFacts) -> str:
    recipe = facts.claim.recipe
    rows = {
        "made with": f"janus-batch {facts.claim.version}, begun {facts.claim.created_at}",
        "guidance weight": ", ".join(f"{weight:g}" for weight in recipe.cfg_weights),
        "guided part": recipe.cfg_interval and " to ".join(f"{edge:g}" for edge in recipe.cfg_interval),
        "temperature": recipe.temperature,
        "steps": recipe.num_inference_steps,
        "solver": recipe.solver,
        "seed": recipe.seed,
        "images per prompt": recipe.images_per_prompt,
        "number format": recipe.dtype,
        "sampler": recipe.sampler,
        "prompt format": recipe.prompt_format,
    }
    note = "An image is a function of its row: the model, the prompt, its seed and these settings decide its bytes."
    return "## How it was made\n\n" + _table(rows) + "\n\n" + note


def _columns(facts: CardFacts) -> str:
    """The columns of the prompt files, and the manifest's in a line: they are the same in every export."""
    kept = [name for name in MANIFEST_SCHEMA.names if name not in LEFT_OUT]
    carried = {field.name: str(field.type) for field in facts.schema if field.name not in MANIFEST_SCHEMA.names}
    own = _table(carried) if carried else "The prompt files had no other columns."
    listed = ", ".join(f"`{name}`" for name in kept)
    if EXPORT_LAYOUTS[facts.layout].pattern is None:
        listed += " (in the manifest of the output; this layout has no place for them)"
    return f"## Columns\n\nOf the prompts, beside `prompt` and its settings:\n\n{own}\n\nOf each image: {listed}."


def _reading(facts: CardFacts) -> str:
    language, code = HOW_TO_READ[facts.layout]
    return f"## Reading it\n\n```{language}\n{code}\n```"


def _licence(facts: CardFacts) -> str:
    stated = f"`{facts.licence}`" if facts.licence else "not stated: whoever publishes this fills in `license` above"
    return (
        f"## Licence\n\nOf these images and prompts: {stated}. The terms of the model "
        f"({_plain(facts.claim.recipe.checkpoint)}) and of the prompts' source apply as well."
    )


def _table(rows: dict[str, Any]) -> str:
    lines = [f"| {_plain(key)} | {_plain(value)} |" for key, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _plain(value: Any) -> str:
    """Text that cannot become a table's edge, a line, a tag or a link."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\|`*[]<>" else c for c in text)
