"""Checks of a checkpoint's tokenizer and guidance. They render nothing and change nothing.

A published checkpoint once had a tokenizer configuration with a wrong pad id. Its unconditional prompt was no longer
unconditional, nothing failed, and guidance silently had no effect. These checks find such a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.checkpoint.open import Checkpoint
from actors.prompt import BEGIN_OF_IMAGE, BOS, PAD, PromptTokenizer, role_tags

PROBE_PROMPT = "a photo of a red apple on a wooden table"

# Below this share of the prediction's own spread, the effect of guidance is invisible.
MIN_GUIDANCE_EFFECT = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check: its name, whether it passed, and what was found."""

    check: str
    is_ok: bool
    detail: str


def check_tokenizer(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The special tokens of a fetched checkpoint's prompts, and whether all files about the tokenizer agree on them."""
    folder, prompt_format = checkpoint.path, checkpoint.prompt_format
    tokenizer = PromptTokenizer(folder, prompt_format)
    names_of = _names_by_id(folder)
    for name, token_id in (
        (BOS, tokenizer.bos_id),
        (PAD, tokenizer.pad_id),
        (BEGIN_OF_IMAGE, tokenizer.begin_of_image_id),
    ):
        others = sorted(names_of[token_id] - {name})
        detail = f"id {token_id}" + (f", which is also the id of {', '.join(map(repr, others))}" if others else "")
        yield Finding(check=f"token {name}", is_ok=not others, detail=detail)
    tags = role_tags(prompt_format)
    missing = [tag for tag in tags if tag.startswith("<") and not any(tag in names for names in names_of.values())]
    detail = f"{' and '.join(tags)} ({prompt_format})" + (
        f"; not in the vocabulary: {', '.join(missing)}" if missing else ""
    )
    yield Finding(check="role tags", is_ok=not missing, detail=detail)
    yield _check_pad_settings(folder, tokenizer.pad_id)
    yield _check_unconditional_prompt(tokenizer)


def check_guidance(engine: Any) -> Iterator[Finding]:
    """Whether the engine's two predictions for a probe prompt are finite, and how much they differ."""
    cond, uncond = (prediction.float() for prediction in engine.predict(PROBE_PROMPT))
    is_finite = bool(cond.isfinite().all() and uncond.isfinite().all())
    detail = "none in the first prediction" if is_finite else "the first prediction has NaN or infinite numbers"
    yield Finding(check="NaN", is_ok=is_finite, detail=detail)
    effect = float((cond - uncond).std() / cond.std().clamp_min(1e-30)) if is_finite else 0.0
    yield Finding(
        check="guidance",
        is_ok=effect >= MIN_GUIDANCE_EFFECT,
        detail=f"the prompt moves the first prediction by {effect:.1%} of its spread"
        + (
            ""
            if effect >= MIN_GUIDANCE_EFFECT
            else ": the model does not distinguish the conditional from the unconditional prompt"
        ),
    )


def _names_by_id(folder: Path) -> dict[int, set[str]]:
    """All names of each id in tokenizer.json, from its vocabulary and its added tokens."""
    fields = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = fields.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # unigram models list [name, score] ordered by id
        vocabulary = {entry[0]: index for index, entry in enumerate(vocabulary)}
    names: dict[int, set[str]] = {}
    for name, token_id in [*vocabulary.items(), *((t["content"], t["id"]) for t in fields.get("added_tokens", []))]:
        names.setdefault(token_id, set()).add(name)
    return names


def _check_pad_settings(folder: Path, pad_id: int) -> Finding:
    """tokenizer_config.json and special_tokens_map.json must not name another token as the pad.

    This program takes the pad's id from the vocabulary, but other programs take it from these files. A checkpoint whose
    files disagree is damaged.
    """
    faults, seen = [], []
    for file_name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / file_name
        if not path.is_file():
            continue
        fields = json.loads(path.read_text(encoding="utf-8"))
        pad = fields.get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        seen.append(f"{file_name}: {pad!r}")
        if pad not in (None, PAD):
            faults.append(f"{file_name} calls {pad!r} the pad token, it must be {PAD!r} or null")
        if fields.get("pad_token_id", pad_id) not in (None, pad_id):
            faults.append(f"{file_name} gives pad_token_id {fields['pad_token_id']}, the vocabulary says {pad_id}")
        for token_id, token in fields.get("added_tokens_decoder", {}).items():
            if (token.get("content") == PAD) != (int(token_id) == pad_id):
                name = token.get("content")
                faults.append(f"{file_name} gives id {token_id} to {name!r}, the vocabulary says {pad_id} is {PAD!r}")
    return Finding(check="pad settings", is_ok=not faults, detail="; ".join(faults or seen or ["no such file"]))


def _check_unconditional_prompt(tokenizer: PromptTokenizer) -> Finding:
    cond = tokenizer.cond_ids(PROBE_PROMPT)
    uncond = tokenizer.uncond_ids(len(cond))
    num_same = sum(a == b for a, b in zip(cond, uncond, strict=True))
    is_ok = num_same == 2  # the first and the last id: bos and begin-of-image
    detail = f"{len(cond)} ids, {len(cond) - num_same} of them differ from the prompt's"
    return Finding(check="unconditional prompt", is_ok=is_ok, detail=detail)
